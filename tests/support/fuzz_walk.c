/* libFuzzer on the launcher itself: its walk of a path, its quoting, its choice of variables and
   its checks of a script, over the tree that test_sanitizers.py makes. A refusal jumps back here
   instead of ending the process; an independent, slower reading says what is right. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdlib.h>
#include <sys/capability.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

static int forget(void *mark);
#define cap_free(mark) forget(mark)
#include "capstate.h"
#undef cap_free

static jmp_buf refused;
static cap_t marks[4]; /* what a jump would leak */

static ssize_t check_message(const struct iovec *parts, int count);
static cap_t keep(cap_t mark);
static char *variable(const char *name);

#define _exit(status) longjmp(refused, status)
#define writev(fd, parts, count) ((void)(fd), check_message(parts, count))
#define sendmsg(fd, datagram, flags) check_message((datagram)->msg_iov, (int)(datagram)->msg_iovlen)
#define getenv(name) variable(name)
#define caps_get_fd(fd) keep(caps_get_fd(fd))
#define cap_init() keep(cap_init())
#define main ppy_main
#include "ppy.c"
#undef main

#define REQUIRE(condition) ((condition) ? (void)0 : abort())
enum { OWNER = 1000 }; /* of what the tree does not leave to root or a stranger */

static char text[16 * PATH_MAX]; /* the fuzzer's, ended by a zero */
static const char *subject;	 /* what a message may be about, if not any name */
static int lowest;		 /* descriptor that a run may open */

static cap_t keep(cap_t mark)
{
	for (size_t n = 0; n < sizeof marks / sizeof *marks; n++)
		if (!marks[n])
			return marks[n] = mark;
	abort();
}

static int forget(void *mark)
{
	for (size_t n = 0; n < sizeof marks / sizeof *marks; n++)
		if (marks[n] == mark)
			marks[n] = NULL;
	return cap_free(mark);
}

static char *variable(const char *name)
{
	(void)name;
	return text;
}

/* Every message is one line that no terminal and no syslog takes for anything else. */
static ssize_t check_message(const struct iovec *parts, int count)
{
	ssize_t length = 0;
	for (int n = 0; n < count; n++) {
		const char *part = parts[n].iov_base;
		for (size_t m = 0; m < parts[n].iov_len; m++)
			REQUIRE((part[m] >= ' ' && part[m] <= '~') ||
				(part[m] == '\n' && n == count - 1 && m == parts[n].iov_len - 1));
		length += (ssize_t)parts[n].iov_len;
	}
	return length;
}

static bool is_plain(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
	       (c && strchr("_./+,:=@%-", c));
}

/* What a shell reads is the name again, or its beginning where it is longer than any path. */
static void check_quote(void)
{
	const char *quoted = quote(text), *name = text;
	if (quoted == text) {
		for (; *name; name++)
			REQUIRE(is_plain(*name));
		REQUIRE(name != text);
		return;
	}
	REQUIRE(strncmp(quoted, "$'", 2) == 0);
	for (quoted += 2; *quoted != '\''; name++) {
		unsigned int code = (unsigned char)*quoted;
		if (*quoted == '\\') {
			REQUIRE(sscanf(quoted, "\\x%2x", &code) == 1);
			quoted += 4;
		} else {
			REQUIRE(is_plain(*quoted++));
		}
		REQUIRE(*name && code == (unsigned char)*name);
	}
	REQUIRE(!quoted[1] && (!*name || name - text == PATH_MAX));
}

/* Whether nobody but root and the owner can lead the path elsewhere, by its names alone. */
static bool is_sound(const char *path, uid_t owner, const struct stat *expected)
{
	struct stat st;
	char above[PATH_MAX + 1];
	for (const char *slash = path; slash; slash = strchr(slash + 1, '/')) {
		bool last = !strchr(slash + 1, '/');
		size_t length = slash == path ? 1 : (size_t)(slash - path);
		memcpy(above, path, length);
		above[length] = '\0';
		if (slash[1] == '/' || !slash[1] || lstat(above, &st) < 0 || !S_ISDIR(st.st_mode))
			return false;
		if (st.st_uid != 0 && st.st_uid != owner)
			return false;
		if (st.st_mode & 022 && (last || !(st.st_mode & S_ISVTX)))
			return false;
	}
	return lstat(path, &st) == 0 &&
	       (!expected || (st.st_dev == expected->st_dev && st.st_ino == expected->st_ino));
}

static void check_walk(uid_t owner, const char *target)
{
	struct stat expected;
	bool known = *target && stat(target, &expected) == 0;
	if (*text != '/' || strlen(text) >= PATH_MAX)
		return; /* locate() and the record have no others */
	bool sound = is_sound(text, owner, known ? &expected : NULL);
	if (setjmp(refused)) {
		REQUIRE(!sound);
		return;
	}
	const struct way way = {owner, "must be owned by the right account", "a fix"};
	walk_to(text, &way, known ? &expected : NULL);
	REQUIRE(sound == !broken);
}

static void check_variable(const char *name)
{
	bool zone = strcmp(name, "TZ") == 0, right = strlen(text) <= 128;
	for (const unsigned char *c = (const unsigned char *)text; *c; c++)
		right &= *c > 32 && *c < 127 && *c != '%' && (zone || *c != '/');
	right &= !zone || (*text != ':' && *text != '/' && !strstr(text, ".."));
	volatile size_t before = 0;
	while (environment[before])
		before = before + 1;
	if (setjmp(refused)) { /* there is no room left, so it would have been kept */
		REQUIRE(right);
		return;
	}
	keep_variable(name);
	REQUIRE(right == !!environment[before]);
	REQUIRE(!right || strncmp(environment[before], name, strlen(name)) == 0);
	REQUIRE(!right || strcmp(environment[before] + strlen(name) + 1, text) == 0);
}

/* The caller's part of a launch up to a script's mark, for any name and in any directory. */
static void check_name(void)
{
	if (strcmp(text, "--help") == 0) /* which has lines */
		return;
	if (setjmp(refused))
		return;
	char *argv[] = {"ppy", text, NULL};
	char path[PATH_MAX];
	struct stat st;
	const char *name = check_arguments(2, argv);
	int fd = open_script(name);
	locate(fd, name, path);
	cap_t mark = check_script(fd, path, &st);
	REQUIRE(mark);
	REQUIRE(broken || is_sound(path, st.st_uid, &st));
	REQUIRE(broken || (st.st_uid && !(st.st_mode & 022) && st.st_mode & 0111));
}

/* A path of the tree's own names, which are more often there than the fuzzer's. */
static void spell(const uint8_t *data, size_t size)
{
	static const char *const names[] = {"root",   "owner", "stranger", "group", "others",
					    "sticky", "link",  "loop",	   "file",  "pipe",
					    "..",     ".",     "",	   "script"};
	char *end = stpcpy(text, subject);
	for (size_t n = 0; n < size && end - text < PATH_MAX; n++)
		end += sprintf(end, "/%s", names[data[n] % (sizeof names / sizeof *names)]);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc;
	(void)argv;
	subject = (getenv)("FUZZ_TREE");
	if (!subject || chdir(subject) < 0)
		return -1;
	lowest = open("/", O_PATH);
	close(lowest);
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const char *const targets[] = {"file", "root/file", "owner/script", ""};
	static const uid_t owners[] = {0, OWNER};
	if (size < 1 || size > sizeof text - 1)
		return -1;
	unsigned int choice = *data;
	broken = 0;
	reported_size = 0;
	memcpy(text, data + 1, size - 1);
	text[size - 1] = '\0';
	if (choice & 1)
		spell(data + 1, size - 1);
	switch (choice >> 1 & 3) {
	case 0:
		check_walk(owners[choice >> 3 & 1], targets[choice >> 4 & 3]);
		break;
	case 1:
		check_quote();
		break;
	case 2:
		check_variable(choice & 8 ? "TZ" : "LANG");
		break;
	default:
		check_name();
	}
	for (size_t n = 0; n < sizeof marks / sizeof *marks; n++) {
		cap_free(marks[n]);
		marks[n] = NULL;
	}
	close_range((unsigned int)lowest, ~0U, 0);
	return 0;
}
