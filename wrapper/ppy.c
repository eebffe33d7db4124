/* ppy starts a marked script as its owner, with the inheritable capabilities of its file and no
   other privilege. main() reads from top to bottom, all looking is done as the caller, and what
   is not exactly as it must be ends in must() or refuse(). With -DCHECK_ONLY it is ppy-check. Its
   parts, in the order of reading: message.h, record.h, walk.h, rules.h, clean.h, identity.h. */
#define _GNU_SOURCE
#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/capability.h>
#include <sys/stat.h>
#include <unistd.h>

#include "capstate.h"
#include "clean.h"
#include "identity.h"
#include "message.h"
#include "record.h"
#include "rules.h"
#include "walk.h"

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
