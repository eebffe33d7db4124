/* ppy starts a marked script as its owner, with the inheritable capabilities of its file and no
   other privilege. main() reads from top to bottom, all looking is done as the caller, and what
   is not exactly as it must be ends in must() or refuse(). With -DCHECK_ONLY it is ppy-check. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <linux/securebits.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/capability.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "capstate.h"
#include "clean.h"
#include "message.h"
#include "walk.h"

enum { FILE_BITS = 64 }; /* what a security.capability attribute can name */

/* The installer finds this in its copy of ppy and fills it in; volatile, because the compiler sees
   it empty. */
static const volatile struct {
	char magic[16];
	uint32_t allow_root;
	char capped[PATH_MAX];
	char original[PATH_MAX];
} record = {
    .magic = {'c', 'a', 'p', 's', '-', 'p', 'p', 'y', '-', 'r', 'e', 'c', 'o', 'r', 'd', '1'}};

#ifndef PPY_VERSION /* setup.py has it */
#define PPY_VERSION "unknown"
#endif

static const char *const version = CHECK_ONLY ? "ppy-check " PPY_VERSION : "ppy " PPY_VERSION;
static const char *const usage =
    CHECK_ONLY ? "ppy-check [--quiet | --tsv] SCRIPT" : "ppy SCRIPT [ARGUMENT]...";
static const char *const help =
    CHECK_ONLY
	? "Usage: ppy-check [--quiet | --tsv] SCRIPT\n\n"
	  "Says whether ppy would start a script, and which rules hold; needs no privilege.\n"
	  "  --quiet  prints only the rules that do not hold\n"
	  "  --tsv    prints for programs: verdict, subject, rule and fix, with tabs between them"
	: "Usage: ppy SCRIPT [ARGUMENT]...\n"
	  "       #!/usr/local/bin/ppy, alone as the first line of SCRIPT\n\n"
	  "Starts a script as the owner of its file, with the inheritable capabilities of its "
	  "file\n"
	  "and no other privilege. Takes no options but --help and --version, each alone.\n"
	  "ppy-check SCRIPT says whether a script would be started, and if not, why.";

static char capped[PATH_MAX];	/* the copy of the interpreter that carries capabilities */
static char original[PATH_MAX]; /* the interpreter as the script is to see it */

static char chosen[5 * PATH_MAX]; /* the options by which caps ppy finds this installation */
static char inspect[sizeof chosen + 32] = "caps ppy status"; /* says how to install it again */
static const cap_value_t own[] = {CAP_SETGID, CAP_SETUID, CAP_SETPCAP, CAP_DAC_OVERRIDE};
static const cap_value_t open_capped = CAP_DAC_OVERRIDE; /* none but root may execute the copy */
enum { OWN = sizeof own / sizeof *own };

static char *cut(char *text, char at)
{
	char *last = strrchr(text, at);
	if (last)
		*last++ = '\0';
	return last;
}

/* The capped copy is PREFIX/libexec/NAME-RANDOM/PROGRAM, where libexec is no link. */
static void name_installation(void)
{
	char prefix[PATH_MAX];
	strcpy(prefix, capped);
	cut(prefix, '/');
	char *name = cut(prefix, '/'), *libexec = cut(prefix, '/');
	if (!name || !cut(name, '-') || !libexec || strcmp(libexec, "libexec") != 0)
		return;
	char *end = chosen;
	if (strcmp(prefix, "/usr/local") != 0)
		end += sprintf(end, " --prefix %s", quote(*prefix ? prefix : "/"));
	if (strcmp(name, "ppy") != 0)
		sprintf(end, " --name %s", quote(name));
	strcat(inspect, chosen);
}

static void read_record(void)
{
	for (int n = 0; n < PATH_MAX - 1 && record.capped[n]; n++)
		capped[n] = record.capped[n];
	for (int n = 0; n < PATH_MAX - 1 && record.original[n]; n++)
		original[n] = record.original[n];
	if (capped[0] != '/' || original[0] != '/')
		refuse(REFUSED, "ppy", "must have been installed", "caps ppy install");
	name_installation();
}

static bool is_apart; /* from the caller's other processes */

/* While all three users are the caller, any process of the caller's can hand over its keyring
   (keyctl(2)) or set limits (prlimit(2)); so root becomes one of them. File access is then judged
   as the caller's own, and what is permitted stays for later. */
static void act_as_caller(void)
{
	CAPS_OWNED cap_t caps = cap_get_proc();
	is_apart = setresuid((uid_t)-1, (uid_t)-1, 0) == 0;
	if (setegid(caller_group) < 0 || seteuid(caller) < 0 || !caps)
		refuse_errno("seteuid(2)");
	if (caller != 0 && (cap_clear_flag(caps, CAP_EFFECTIVE) < 0 || cap_set_proc(caps) < 0))
		refuse_errno("capset(2)");
}

static bool is_setuid(int fd)
{
	struct stat st;
	return fstat(fd, &st) == 0 && st.st_uid == 0 && st.st_mode & S_ISUID;
}

static bool has(cap_t caps, cap_flag_t set, cap_value_t cap)
{
	cap_flag_value_t value = CAP_CLEAR;
	return cap_get_flag(caps, cap, set, &value) == 0 && value == CAP_SET;
}

static bool on_mount(int fd, unsigned long flag)
{
	struct statvfs mount;
	return fstatvfs(fd, &mount) < 0 || mount.f_flag & flag;
}

static void must_have(bool holds, cap_value_t cap, const char *rule, const char *fix)
{
	if (!CHECK_ONLY && holds)
		return;
	CAPS_OWNED char *name = cap_to_name(cap);
	must(holds, name ? name : "a capability", rule, fix);
}

/* ppy's own program: for ppy-check the one beside it. */
static int open_ppy(char path[PATH_MAX])
{
	int running = open("/proc/self/exe", O_PATH | O_CLOEXEC);
	if (running < 0)
		refuse_errno("/proc/self/exe");
	struct stat st;
	if (fstat(running, &st) < 0 || st.st_nlink == 0)
		refuse(REFUSED, "ppy", "must not be replaced or removed while it starts",
		       "run it again");
	locate(running, "ppy", path);
	if (!CHECK_ONLY)
		return running;
	close(running);
	char *suffix = strrchr(path, '-');
	if (suffix && strcmp(suffix, "-check") == 0)
		*suffix = '\0';
	int fd = open(path, O_PATH | O_CLOEXEC);
	if (fd < 0)
		refuse(REFUSED, path, strerror(errno), inspect);
	return fd;
}

static _Noreturn void answer(const char *text)
{
	strcpy(message, text);
	print_message(1, "");
	_exit(is_unread ? REFUSED : 0);
}

static _Noreturn void refuse_option(const char *option)
{
	char path[PATH_MAX];
	CAPS_OPEN int fd = open_ppy(path);
	const char *ppy = quote(path);
	refuse(
	    REFUSED, option, "must be the path of a script, since ppy takes no options",
	    fix_by("%s SCRIPT [ARGUMENT]..., or #!%s alone as the first line of SCRIPT", ppy, ppy));
}

static const char *check_arguments(int argc, char **argv)
{
	if (argc == 2 && strcmp(argv[1], "--version") == 0)
		answer(version);
	if (argc == 2 && strcmp(argv[1], "--help") == 0)
		answer(help);
	char **word = argv + 1;
	bool is_quiet = CHECK_ONLY && argc > 2 && strcmp(*word, "--quiet") == 0;
	bool is_tsv = CHECK_ONLY && argc > 2 && strcmp(*word, "--tsv") == 0;
	if (is_quiet || is_tsv)
		word++;
	if (argc < 2 || !**word || (CHECK_ONLY && **word == '-'))
		refuse(REFUSED, "usage", usage, NULL);
	if (**word == '-')
		refuse_option(*word);
	if (CHECK_ONLY)
		report = is_tsv ? TABLE : is_quiet ? BROKEN_RULES : EVERY_RULE;
	if (strlen(*word) >= PATH_MAX)
		refuse(REFUSED, "the script's path", strerror(ENAMETOOLONG), NULL);
	return *word;
}

/* What ppy is given by its file. */
static cap_t given_state(void)
{
	char path[PATH_MAX];
	CAPS_OPEN int fd = open_ppy(path);
	cap_t caps = caps_get_fd(fd);
	if (!caps && (caps = cap_init()) && is_setuid(fd))
		cap_set_flag(caps, CAP_PERMITTED, OWN, own, CAP_SET);
	return caps;
}

static bool was_given(cap_value_t cap)
{
	CAPS_OWNED cap_t given = given_state();
	return given && has(given, CAP_PERMITTED, cap);
}

static void check_privilege(void)
{
	must(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 0, "no_new_privs",
	     "must not be set, it keeps every program from privilege (prctl(2))", NULL);
	const int locks = 0x2aaaaaaa; /* every second bit locks the one below it */
	int bits = prctl(PR_GET_SECUREBITS, 0, 0, 0, 0);
	must(bits >= 0 && !(bits & (SECBIT_NOROOT | SECBIT_NO_SETUID_FIXUP | locks)), "securebits",
	     "must have neither NOROOT, NO_SETUID_FIXUP nor a lock set (capabilities(7))", NULL);
	CAPS_OWNED cap_t caps = CHECK_ONLY ? given_state() : cap_get_proc();
	if (!caps)
		refuse_errno("capget(2)");
	for (int n = 0; n < OWN; n++) {
		must_have(cap_get_bound(own[n]) == CAP_SET, own[n],
			  "must be in the bounding set that ppy is started with", NULL);
		bool is_there = has(caps, CAP_PERMITTED, own[n]);
		bool is_kept_away = !is_there && was_given(own[n]);
		must_have(is_there, own[n],
			  is_kept_away ? "must not be kept from ppy by a debugger, a user "
					 "namespace or a nosuid mount"
				       : "must have been given to ppy",
			  is_kept_away ? NULL : inspect);
	}
	must(CHECK_ONLY || is_apart, "ppy", "must be able to leave its caller's account", inspect);
}

static int open_script(const char *name)
{
	int fd = open(name, O_PATH | O_CLOEXEC);
	if (fd < 0)
		refuse(errno == ENOENT || errno == ENOTDIR ? NOT_FOUND : REFUSED, name,
		       strerror(errno), NULL);
	/* the system call, since glibc's faccessat falls back to guessing from the mode */
	long denied = syscall(SYS_faccessat2, fd, "", X_OK, AT_EMPTY_PATH);
	if (denied && errno != EACCES)
		refuse_errno("faccessat2(2)");
	must(!on_mount(fd, ST_NOEXEC), name, "must not be on a noexec mount (mount(8))", NULL);
	must(!denied, name, "must be executable for its caller", "ask its owner for that right");
	return fd;
}

static cap_t read_mark(int fd, const char *path, const char *rule, const char *fix)
{
	cap_t mark = caps_get_fd(fd);
	bool is_marked = mark || errno != ENODATA;
	if (!mark && is_marked)
		refuse_errno(path);
	must(is_marked, path, rule, fix);
	if (!mark && !(mark = cap_init())) /* only ppy-check goes on without one */
		refuse_errno("cap_init(3)");
	must(cap_get_nsowner(mark) == 0, path,
	     "must not have capabilities of a user namespace (a root id)", fix);
	return mark;
}

static bool is_empty(cap_t caps, cap_flag_t set)
{
	for (cap_value_t cap = 0; cap < FILE_BITS; cap++)
		if (has(caps, set, cap))
			return false;
	return true;
}

static const char *fix_for_sets(cap_t mark, const char *path)
{
	CAPS_OWNED cap_t meant = cap_init();
	for (cap_value_t cap = 0; meant && cap < FILE_BITS; cap++)
		if (has(mark, CAP_PERMITTED, cap))
			cap_set_flag(meant, CAP_INHERITABLE, 1, &cap, CAP_SET);
	CAPS_OWNED char *text = meant ? cap_to_text(meant, NULL) : NULL;
	return fix_by("setcap %s %s", quote(text ? text : "CAPABILITIES=i"), quote(path));
}

/* A script that is marked as programs are, as permitted, would be given nothing. */
static void check_sets(cap_t mark, const char *path)
{
	bool is_meant = !is_empty(mark, CAP_INHERITABLE) || is_empty(mark, CAP_PERMITTED);
	must(is_meant, path,
	     "must be marked with inheritable capabilities (=i), not with permitted ones",
	     fix_for_sets(mark, path));
}

static cap_t check_script(int fd, const char *path, struct stat *st)
{
	if (fstat(fd, st) < 0)
		refuse_errno(path);
	if (!S_ISREG(st->st_mode))
		refuse(REFUSED, path, "must be a regular file", NULL);
	must(!writable_by_others(st), path, "must not be writable by group or others",
	     fix_by("chmod go-w %s", quote(path)));
	must(!on_mount(fd, ST_NOSUID), path, "must not be on a nosuid mount (mount(8))", NULL);
	cap_t mark = read_mark(fd, path, "must be marked with the capabilities it may have",
			       fix_by("setcap CAPABILITIES=i %s", quote(path)));
	must(record.allow_root || (st->st_uid && st->st_gid), path,
	     "must have an owner and a group other than root, and then be marked anew",
	     fix_by("chown USER:GROUP %s", quote(path)));
	const struct way way = {st->st_uid, "must be owned by root or the script's owner",
				"move the script, for example to /srv"};
	walk_to(path, &way, st);
	return mark;
}

static void check_bounding(cap_t mark)
{
	for (cap_value_t cap = 0; cap < FILE_BITS; cap++)
		if (has(mark, CAP_INHERITABLE, cap))
			must_have(cap_get_bound(cap) == CAP_SET, cap,
				  "must be in the bounding set that ppy is started with", NULL);
}

/* A program that is run with privilege is root's alone, and so is the way to it. */
static void check_program(int fd, const char *name, const struct stat *script)
{
	struct stat st;
	char path[PATH_MAX];
	if (fd < 0 || fstat(fd, &st) < 0)
		refuse(REFUSED, name, strerror(errno), inspect);
	strcpy(path, name);
	const struct way way = {0, "must be owned by root", inspect};
	/* it is a link, by which a virtual environment is found, or was moved meanwhile */
	if (!walk_reaches(path, &way, &st)) {
		locate(fd, name, path);
		walk_to(path, &way, &st);
	}
	must(S_ISREG(st.st_mode) && st.st_uid == 0, path, "must be a file that root owns", inspect);
	must(!writable_by_others(&st), path, "must not be writable by group or others",
	     fix_by("chmod go-w %s", quote(path)));
	must(st.st_dev != script->st_dev || st.st_ino != script->st_ino, path,
	     "must not itself be the script", NULL);
}

/* The installation as it is, but for a mark's capabilities beside those that scripts may have. */
static const char *fix_for_grant(cap_t grant, cap_t mark, bool is_setuid)
{
	char allowed[FILE_BITS * 32] = "", *end = allowed;
	for (cap_value_t cap = 0; cap < cap_max_bits(); cap++) {
		CAPS_OWNED char *name = cap_to_name(cap);
		if (name && (has(grant, CAP_INHERITABLE, cap) || has(mark, CAP_INHERITABLE, cap)))
			end += sprintf(end, "%s%s", end == allowed ? "" : ",", name);
	}
	return fix_by("caps ppy install --interpreter %s%s%s%s --allow %s", quote(original), chosen,
		      is_setuid ? " --setuid" : "", record.allow_root ? " --allow-root" : "",
		      allowed);
}

static void check_programs(const struct stat *script, cap_t mark)
{
	static const char suid_rule[] = "must not be on a nosuid mount (mount(8))";
	static const char mark_rule[] = "must have inheritable file capabilities and no others";
	char path[PATH_MAX];
	CAPS_OPEN int ppy = open_ppy(path);
	check_program(ppy, path, script);
	must(!on_mount(ppy, ST_NOSUID), path, suid_rule, inspect);
	CAPS_OPEN int seen = open(original, O_PATH | O_CLOEXEC);
	check_program(seen, original, script);
	CAPS_OPEN int run = open(capped, O_PATH | O_CLOEXEC);
	check_program(run, capped, script);
	must(!on_mount(run, ST_NOSUID), capped, suid_rule, inspect);
	CAPS_OWNED cap_t grant = read_mark(run, capped, mark_rule, inspect);
	for (cap_value_t cap = 0; cap < FILE_BITS; cap++) {
		if (has(grant, CAP_PERMITTED, cap) || has(grant, CAP_EFFECTIVE, cap))
			refuse(REFUSED, capped, mark_rule, inspect);
		bool is_given = has(grant, CAP_INHERITABLE, cap);
		if (has(mark, CAP_INHERITABLE, cap))
			must_have(is_given, cap,
				  "must be among those that ppy was installed to give",
				  is_given ? NULL : fix_for_grant(grant, mark, is_setuid(ppy)));
	}
}

/* Effective and permitted become `held`, inheritable becomes the mark's (none without one). */
static cap_t new_state(const cap_value_t *held, int count, cap_t mark)
{
	cap_t caps = mark ? cap_dup(mark) : cap_init();
	if (!caps || cap_clear_flag(caps, CAP_PERMITTED) < 0 ||
	    cap_clear_flag(caps, CAP_EFFECTIVE) < 0 ||
	    cap_set_flag(caps, CAP_PERMITTED, count, held, CAP_SET) < 0 ||
	    cap_set_flag(caps, CAP_EFFECTIVE, count, held, CAP_SET) < 0)
		refuse_errno("a capability state");
	return caps;
}

static void set_state(const cap_value_t *held, int count, cap_t mark)
{
	CAPS_OWNED cap_t caps = new_state(held, count, mark);
	if (cap_set_proc(caps) < 0)
		refuse_errno("capset(2)");
}

/* The order matters: inheritable while the bounding set still has it, groups before the user,
   the user while capabilities are kept across the change. */
static void drop_identity(const struct stat *script, cap_t mark)
{
	const unsigned long bits = SECBIT_NOROOT | SECBIT_NOROOT_LOCKED | SECBIT_KEEP_CAPS;
	set_state(own, OWN, NULL); /* makes cap_setpcap effective, which the next one needs */
	set_state(own, OWN, mark);
	if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0)
		refuse_errno("ambient capabilities");
	for (cap_value_t cap = 0; cap < cap_max_bits(); cap++)
		if (cap_drop_bound(cap) < 0)
			refuse_errno("bounding capabilities");
	if (setgroups(0, NULL) < 0)
		refuse_errno("setgroups(2)");
	if (setresgid(script->st_gid, script->st_gid, script->st_gid) < 0)
		refuse_errno("setresgid(2)");
	if (prctl(PR_SET_SECUREBITS, bits, 0, 0, 0) < 0)
		refuse_errno("securebits");
	if (setresuid(script->st_uid, script->st_uid, script->st_uid) < 0)
		refuse_errno("setresuid(2)");
	set_state(&open_capped, 1, mark);
	reset_core_filter();
}

static bool is_state(cap_t mark)
{
	CAPS_OWNED cap_t now = cap_get_proc();
	CAPS_OWNED cap_t wanted = new_state(&open_capped, 1, mark);
	if (!now || cap_compare(now, wanted) != 0)
		return false;
	for (cap_value_t cap = 0; cap < cap_max_bits(); cap++)
		if (cap_get_bound(cap) != CAP_CLEAR ||
		    (has(wanted, CAP_INHERITABLE, cap) && cap_get_ambient(cap) != CAP_CLEAR))
			return false; /* no other can be ambient */
	return true;
}

static void verify(const struct stat *script, cap_t mark)
{
	uid_t r, e, s, user = script->st_uid;
	gid_t rg, eg, sg, group = script->st_gid;
	bool is_owner = getresuid(&r, &e, &s) == 0 && r == user && e == user && s == user &&
			getresgid(&rg, &eg, &sg) == 0 && rg == group && eg == group &&
			sg == group && getgroups(0, NULL) == 0;
	must(is_owner, "ppy", "must have become the script's owner", NULL);
	must(is_state(mark), "ppy", "must have just the script's capabilities", NULL);
	must(has_own_keyring(), "ppy", "must have a session keyring of its own", NULL);
	bool is_back =
	    (user != 0 && setresuid((uid_t)-1, 0, (uid_t)-1) == 0) ||
	    (user != caller && setresuid((uid_t)-1, caller, (uid_t)-1) == 0) ||
	    (group != 0 && setresgid((gid_t)-1, 0, (gid_t)-1) == 0) ||
	    (group != caller_group && setresgid((gid_t)-1, caller_group, (gid_t)-1) == 0);
	must(!is_back, "ppy", "must not be able to go back", NULL);
}

static void log_launch(const char *path, const struct stat *script, cap_t mark)
{
	cap_clear_flag(mark, CAP_PERMITTED);
	cap_clear_flag(mark, CAP_EFFECTIVE);
	CAPS_OWNED char *caps = cap_to_text(mark, NULL);
	must(log_socket >= 0, "the log", "must be within the limit of descriptors", NULL);
	snprintf(message, sizeof message, "launch of %s as uid %u gid %u with %s", quote(path),
		 script->st_uid, script->st_gid, caps ? caps : "?");
	log_message(LOG_AUTHPRIV_INFO);
}

int main(int argc, char **argv)
{
	caller = getuid();
	caller_group = getgid();
	act_as_caller();
	tidy_descriptors();
	if (!CHECK_ONLY)
		open_log(); /* while the caller can still not take all descriptors away */
	if (argc < 1)
		return NOT_FOUND;
	const char *name = check_arguments(argc, argv);
	read_record();
	check_privilege();

	char path[PATH_MAX];
	struct stat script;
	int fd = open_script(name);
	locate(fd, name, path);
	CAPS_OWNED cap_t mark = check_script(fd, path, &script);
	check_bounding(mark);
	check_programs(&script, mark);
	check_sets(mark, path);
	if (CHECK_ONLY)
		return conclude(broken ? REFUSED : 0, true);
	clean_environment(script.st_uid);
	clean_process();
	leave_keyring();

	log_launch(path, &script, mark);
	drop_identity(&script, mark);
	verify(&script, mark);
	argv[0] = original;
	argv[1] = path;
	execve(capped, argv, environment);
	refuse(REFUSED, capped, strerror(errno), inspect);
}
