/* The rules that must hold of the process, of the script, and of the programs that run it. */
#ifndef RULES_H
#define RULES_H

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/securebits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/capability.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "capstate.h"
#include "identity.h"
#include "message.h"
#include "record.h"
#include "walk.h"

static bool is_setuid(int fd)
{
	struct stat st;
	return fstat(fd, &st) == 0 && st.st_uid == 0 && st.st_mode & S_ISUID;
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

#endif
