/* What ppy says, on standard error and in the system log. A rule that does not hold ends it in
   refuse(); ppy-check, compiled with -DCHECK_ONLY, prints each rule and goes on. With --tsv it
   prints for programs: verdict, subject, rule and fix, with tabs between them, quoted for a shell.
 */
#ifndef MESSAGE_H
#define MESSAGE_H

#include <errno.h>
#include <limits.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

#ifndef CHECK_ONLY
#define CHECK_ONLY 0
#endif

enum { REFUSED = 126, NOT_FOUND = 127 };
enum { LOG_AUTHPRIV_INFO = 10 << 3 | 6, LOG_AUTHPRIV_WARNING = 10 << 3 | 4 };

static uid_t caller;
static gid_t caller_group;

/* For ppy-check: what it prints once it has a script, how many rules do not hold, and whether a
   line of it was lost. */
static enum { NO_REPORT, EVERY_RULE, BROKEN_RULES, TABLE } report;
static unsigned int broken;
static bool is_unread;

static char message[16 * PATH_MAX];

/* A name as a shell reads it back, so that none can fool the terminal or the admin's paste. The
   last two results stay. */
static const char *quote(const char *name)
{
	static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
				    "0123456789_./+,:=@%-";
	static char results[2][4 * PATH_MAX + 4];
	static bool is_second;
	if (*name && !name[strspn(name, plain)])
		return name;
	is_second = !is_second;
	char *quoted = results[is_second], *end = stpcpy(quoted, "$'");
	for (size_t n = 0; name[n] && n < PATH_MAX; n++)
		end +=
		    sprintf(end, strchr(plain, name[n]) ? "%c" : "\\x%02x", (unsigned char)name[n]);
	strcpy(end, "'");
	return quoted;
}

static int log_socket = -1;

static void open_log(void)
{
	log_socket = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
}

/* One message to syslog, which must neither delay nor stop a launch: if it is lost, it is lost. */
static void log_message(int priority)
{
	struct sockaddr_un log = {.sun_family = AF_UNIX, .sun_path = "/dev/log"};
	char header[64];
	int length = snprintf(header, sizeof header, "<%d>ppy[%d]: from uid %u gid %u: ", priority,
			      getpid(), caller, caller_group);
	struct iovec parts[] = {{header, (size_t)length}, {message, strlen(message)}};
	struct msghdr datagram = {
	    .msg_name = &log, .msg_namelen = sizeof log, .msg_iov = parts, .msg_iovlen = 2};
	sendmsg(log_socket, &datagram, MSG_NOSIGNAL);
}

static void print_message(int fd, const char *prefix)
{
	struct iovec parts[] = {
	    {(char *)prefix, strlen(prefix)}, {message, strlen(message)}, {"\n", 1}};
	if (writev(fd, parts, 3) < 0)
		is_unread = true;
}

/* What makes a rule hold: a command to paste, or a sentence where no single command does. */
__attribute__((format(printf, 1, 2))) static const char *fix_by(const char *format, ...)
{
	static char fix[10 * PATH_MAX];
	va_list arguments;
	va_start(arguments, format);
	vsnprintf(fix, sizeof fix, format, arguments);
	va_end(arguments);
	return fix;
}

/* Where nothing can be advised, there is no fix. */
static void compose(const char *subject, const char *rule, const char *fix)
{
	if (report == TABLE)
		snprintf(message, sizeof message, "%s\t%s\t%s", quote(subject), rule,
			 fix ? fix : "");
	else
		snprintf(message, sizeof message, "%s: %s%s%s", quote(subject), rule,
			 fix ? "; fix: " : "", fix ? fix : "");
}

static char reported[1 << 16]; /* the lines of ppy-check, each ended by a zero */
static size_t reported_size;

/* Several files have the same directories above them. */
static bool is_repeated(void)
{
	size_t length = strlen(message) + 1;
	for (size_t n = 0; n < reported_size; n += strlen(reported + n) + 1)
		if (strcmp(reported + n, message) == 0)
			return true;
	if (length <= sizeof reported - reported_size) {
		strcpy(reported + reported_size, message);
		reported_size += length;
	}
	return false;
}

static void report_rule(bool holds, const char *subject, const char *rule, const char *fix)
{
	static const char *const prefixes[][2] = {{"REFUSED ", "ok      "}, {"refused\t", "ok\t"}};
	compose(subject, rule, fix);
	if (is_repeated())
		return;
	broken += !holds;
	if (!holds || report != BROKEN_RULES)
		print_message(1, prefixes[report == TABLE][holds]);
}

/* The end of ppy-check: what ppy would do. */
static int conclude(int status, bool is_complete)
{
	if (!broken)
		strcpy(message, "ppy would start this script");
	else
		snprintf(message, sizeof message, "ppy refuses this script: %u %s not hold%s",
			 broken, broken == 1 ? "rule does" : "rules do",
			 is_complete ? "" : ", and the rest was not looked at");
	if (report == EVERY_RULE)
		print_message(1, "");
	return is_unread ? REFUSED : status;
}

static _Noreturn void refuse(int status, const char *subject, const char *rule, const char *fix)
{
	if (report != NO_REPORT) {
		status = broken ? REFUSED : status; /* where ppy ended before */
		report_rule(false, subject, rule, fix);
		_exit(conclude(status, false));
	}
	compose(subject, rule, fix);
	if (!CHECK_ONLY) { /* first, since the caller's standard error may be the end of ppy */
		if (log_socket < 0) {
			close(0); /* a place that no limit denies */
			open_log();
		}
		log_message(LOG_AUTHPRIV_WARNING);
	}
	print_message(2, CHECK_ONLY ? "ppy-check: " : "ppy: ");
	_exit(status);
}

static _Noreturn void refuse_errno(const char *subject)
{
	refuse(REFUSED, subject, strerror(errno), NULL);
}

/* A rule is what must hold of the subject. Its fix is only worked out where it does not hold. */
#define must(holds, subject, rule, fix)                                                            \
	do {                                                                                       \
		bool is_held = (holds);                                                            \
		if (CHECK_ONLY)                                                                    \
			report_rule(is_held, subject, rule, is_held ? NULL : (fix));               \
		else if (!is_held)                                                                 \
			refuse(REFUSED, subject, rule, fix);                                       \
	} while (0)

#endif
