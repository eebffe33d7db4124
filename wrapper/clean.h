/* What the script gets instead of its caller's: descriptors, environment, signals, keys. */
#ifndef CLEAN_H
#define CLEAN_H

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/keyctl.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/types.h>
#include <unistd.h>

#include "message.h"
#include "walk.h"

#ifndef PR_SET_MEMORY_MERGE /* Linux 6.4 */
#define PR_SET_MEMORY_MERGE 67
#endif

/* Nothing but 0, 1 and 2 goes on, each open for what it is for: where the caller closed one, the
   next file opened would take its place, and glibc puts the wrong end of a device there. One that
   is a path only would be opened as the owner, by a script that opens /dev/stdin. */
static void tidy_descriptors(void)
{
	long failed = syscall(SYS_close_range, 3U, ~0U, 0);
	if (failed && errno == ENOSYS)
		refuse(REFUSED, "kernel", "must be Linux 5.9 or later", NULL);
	if (failed)
		refuse_errno("close_range(2)");
	for (int fd = 0; fd <= 2; fd++) {
		int flags = fcntl(fd, F_GETFL);
		if (flags >= 0 && !(flags & O_PATH) &&
		    (flags & O_ACCMODE) != (fd == 0 ? O_WRONLY : O_RDONLY))
			continue;
		close(fd);
		if (open("/dev/null", O_RDWR) != fd)
			refuse_errno("/dev/null");
	}
}

static char *environment[32];
static char environment_text[4 * PATH_MAX];

static void set_variable(const char *name, const char *value)
{
	static size_t count, used;
	size_t left = sizeof environment_text - used;
	int length = snprintf(environment_text + used, left, "%s=%s", name, value);
	if (length < 0 || (size_t)length >= left ||
	    count == sizeof environment / sizeof *environment - 1)
		refuse(REFUSED, name, "must fit the environment", NULL);
	environment[count++] = environment_text + used;
	used += (size_t)length + 1;
}

/* What the caller may set names no file and formats nothing: printable, without / and %. */
static void keep_variable(const char *name)
{
	const char *value = getenv(name);
	bool zone = strcmp(name, "TZ") == 0;
	if (!value || strlen(value) > 128)
		return;
	for (const char *c = value; *c; c++)
		if (*c <= ' ' || *c > '~' || *c == '%' || (*c == '/' && !zone))
			return;
	if (!zone || !(*value == ':' || *value == '/' || strstr(value, "..")))
		set_variable(name, value);
}

/* Python runs what it finds below HOME: that must be as far out of others' reach as the script is.
   Each directory is checked before its entries, so an entry cannot be swapped afterwards. */
static bool is_home(const char *path, uid_t owner)
{
	char walked[PATH_MAX];
	for (const char *end = path; *end;) {
		struct stat st;
		end = strchrnul(end + 1, '/');
		snprintf(walked, sizeof walked, "%.*s", (int)(end - path), path);
		if (lstat(walked, &st) < 0 || !S_ISDIR(st.st_mode) || !is_theirs(&st, owner) ||
		    !is_closed(&st, !*end))
			return false;
	}
	return true;
}

enum { NAME, UID = 2, DIRECTORY = 5, FIELDS };

/* Cuts a line of /etc/passwd into its fields. What begins with + or - is for NIS, not an account.
 */
static bool is_account(char *line, char *fields[FIELDS], uid_t owner)
{
	for (int n = 0; n < FIELDS; n++)
		if (!(fields[n] = strsep(&line, ":\n")))
			return false;
	char *end;
	unsigned long uid = strtoul(fields[UID], &end, 10);
	return *fields[NAME] && !strchr("+-#", *fields[NAME]) && isdigit(*fields[UID]) && !*end &&
	       uid == owner;
}

/* From /etc/passwd alone, since other sources of accounts would be code and files of their own; in
   blocks that are searched for the number, since there may be a million lines. */
static bool find_account(char *fields[FIELDS], uid_t owner)
{
	static char block[1 << 18];
	size_t filled = 0;
	char number[16];
	size_t length = (size_t)snprintf(number, sizeof number, ":%u:", owner);
	CAPS_OPEN int fd = open("/etc/passwd", O_RDONLY | O_CLOEXEC);
	if (fd < 0 && errno == ENOENT)
		return false;
	if (fd < 0)
		refuse_errno("/etc/passwd");
	for (bool is_end = false; !is_end;) {
		ssize_t size = read(fd, block + filled, sizeof block - 1 - filled);
		if (size < 0)
			refuse_errno("/etc/passwd");
		is_end = size == 0;
		filled += (size_t)size;
		if (is_end)
			block[filled++] = '\n'; /* which the last line may lack */
		char *last = memrchr(block, '\n', filled), *line = block, *match;
		char *end = last ? last + 1 : block; /* of the lines that are whole */
		while ((match = memmem(line, (size_t)(end - line), number, length))) {
			char *before = memrchr(line, '\n', (size_t)(match - line));
			char *next = memchr(match, '\n', (size_t)(end - match));
			*next++ = '\0';
			if (is_account(before ? before + 1 : line, fields, owner))
				return true;
			line = next;
		}
		filled -= (size_t)(end - block);
		if (filled == sizeof block - 1)
			refuse(REFUSED, "/etc/passwd", "must have lines below 256 KiB", NULL);
		memmove(block, end, filled);
	}
	return false;
}

static void set_account(uid_t owner)
{
	char *fields[FIELDS], home[PATH_MAX];
	bool is_found = find_account(fields, owner);
	bool has_home = is_found && *fields[DIRECTORY] == '/' &&
			realpath(fields[DIRECTORY], home) && is_home(home, owner);
	set_variable("HOME", has_home ? home : "/");
	if (is_found) {
		set_variable("USER", fields[NAME]);
		set_variable("LOGNAME", fields[NAME]);
	}
}

static void set_number(const char *name, unsigned int number)
{
	char digits[16];
	snprintf(digits, sizeof digits, "%u", number);
	set_variable(name, digits);
}

static void clean_environment(uid_t owner)
{
	static const char kept[][20] = {"TERM",	       "COLORTERM",	    "NO_COLOR",
					"LANG",	       "LANGUAGE",	    "TZ",
					"LC_ALL",      "LC_ADDRESS",	    "LC_COLLATE",
					"LC_CTYPE",    "LC_IDENTIFICATION", "LC_MEASUREMENT",
					"LC_MESSAGES", "LC_MONETARY",	    "LC_NAME",
					"LC_NUMERIC",  "LC_PAPER",	    "LC_TELEPHONE",
					"LC_TIME"};
	for (size_t n = 0; n < sizeof kept / sizeof *kept; n++)
		keep_variable(kept[n]);
	set_account(owner);
	set_variable("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
	set_variable("SHELL", "/bin/sh");
	set_number("PPY_UID", caller);
	set_number("PPY_GID", caller_group);
}

/* What execve(2) would hand on besides the environment, and could disturb the script. That a user
   detached it or stopped its terminal's signals (nohup, a job in the background) stays. */
static void clean_process(void)
{
	const struct itimerval off = {0};
	struct rlimit core = {0};	   /* which would have what the script has in memory */
	const unsigned long slack = 50000; /* nanoseconds; prctl(2) has it for the first process */
	sigset_t kept, none;
	sigemptyset(&none);
	sigemptyset(&kept);
	for (const int *terminal =
		 (const int[]){SIGHUP, SIGINT, SIGQUIT, SIGTSTP, SIGTTIN, SIGTTOU, 0};
	     *terminal; terminal++)
		sigaddset(&kept, *terminal);
	/* the system call, since glibc's keeps two of them to itself; KILL and STOP are refused */
	const unsigned long by_default[4] = {0};
	for (int number = 1; number <= SIGRTMAX; number++)
		if (!sigismember(&kept, number))
			syscall(SYS_rt_sigaction, number, by_default, NULL, _NSIG / 8);
	umask((umask(077) & 077) | 022);
	prctl(PR_SET_TSC, PR_TSC_ENABLE, 0, 0, 0); /* x86 alone can have a clock that kills */
	/* KSM would let the caller find out by trying what is in the script's memory */
	if (prctl(PR_SET_MEMORY_MERGE, 0, 0, 0, 0) < 0 && errno != EINVAL)
		refuse_errno("memory merging");
	if (getrlimit(RLIMIT_CORE, &core) == 0 && core.rlim_max > 1)
		core.rlim_max =
		    1; /* which keeps it from a program too, where 0 does not (core(5)) */
	core.rlim_cur = core.rlim_max;
	if (setitimer(ITIMER_REAL, &off, NULL) < 0 || setitimer(ITIMER_VIRTUAL, &off, NULL) < 0 ||
	    setitimer(ITIMER_PROF, &off, NULL) < 0 || sigprocmask(SIG_SETMASK, &none, NULL) < 0 ||
	    prctl(PR_SET_TIMERSLACK, slack, 0, 0, 0) < 0 ||
	    prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0) < 0 || personality(PER_LINUX) < 0 ||
	    setrlimit(RLIMIT_CORE, &core) < 0)
		refuse_errno("signals, timers, personality and core size");
}

/* What of memory a core would have. As this file is root's, only who may open it can write it. */
static void reset_core_filter(void)
{
	int fd = open("/proc/self/coredump_filter", O_WRONLY | O_CLOEXEC);
	if (fd < 0 && (errno == ENOENT || errno == EROFS))
		return; /* such a kernel or container has no cores, or none that can be asked for */
	if (fd < 0 || write(fd, "0x33", 4) != 4)
		refuse_errno("/proc/self/coredump_filter");
	close(fd);
}

static long keyring;

/* The caller's keys are not the script's. The new keyring counts as the caller's, who could use up
   the owner's quota, but the caller can only look at it. Where a container forbids this, it
   forbids finding keys as well. */
static void leave_keyring(void)
{
	keyring = syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, NULL);
	if (keyring < 0 && errno != ENOSYS && errno != EPERM)
		refuse_errno("keyctl(2)");
	if (keyring >= 0 &&
	    syscall(SYS_keyctl, KEYCTL_SET_REQKEY_KEYRING, KEY_REQKEY_DEFL_DEFAULT) < 0)
		refuse_errno("keyctl(2)");
}

static bool has_own_keyring(void)
{
	return keyring < 0 ||
	       keyring == syscall(SYS_keyctl, KEYCTL_GET_KEYRING_ID, KEY_SPEC_SESSION_KEYRING, 0);
}

#endif
