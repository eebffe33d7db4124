/* Who ppy is: its caller while it looks at anything, and in the end the owner of the script. */
#ifndef IDENTITY_H
#define IDENTITY_H

#include <grp.h>
#include <linux/securebits.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/capability.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

#include "capstate.h"
#include "clean.h"
#include "message.h"

enum { FILE_BITS = 64 }; /* what a security.capability attribute can name */

static const cap_value_t own[] = {CAP_SETGID, CAP_SETUID, CAP_SETPCAP, CAP_DAC_OVERRIDE};
static const cap_value_t open_capped = CAP_DAC_OVERRIDE; /* none but root may execute the copy */
enum { OWN = sizeof own / sizeof *own };

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

static bool has(cap_t caps, cap_flag_t set, cap_value_t cap)
{
	cap_flag_value_t value = CAP_CLEAR;
	return cap_get_flag(caps, cap, set, &value) == 0 && value == CAP_SET;
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

#endif
