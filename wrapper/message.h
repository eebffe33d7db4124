/* What ppy says, on standard error and in the system log. A rule that does not hold ends it in
   refuse(); ppy-check, compiled with -DCHECK_ONLY, prints each rule and goes on. */
#ifndef MESSAGE_H
#define MESSAGE_H

#include <errno.h>
#include <limits.h>
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

static bool failed; /* in ppy-check, which goes on to the next check */
static char message[8 * PATH_MAX + 1024];

/* A name as a shell reads it back, so that none can fool the terminal or the admin's paste. */
static const char *quote(const char *name)
{
	static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
				    "0123456789_./+,:=@%-";
	static char quoted[4 * PATH_MAX + 4];
	if (*name && !name[strspn(name, plain)])
		return name;
	char *end = stpcpy(quoted, "$'");
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
		failed = true;
}

/* A rule is what must hold of the subject; a mend is the command that makes it hold, and takes
   the subject as its argument where it ends in a space. */
static void compose(const char *subject, const char *rule, const char *mend)
{
	const char *name = quote(subject);
	const char *argument = mend && mend[strlen(mend) - 1] == ' ' ? name : "";
	snprintf(message, sizeof message, "%s: %s%s%s%s", name, rule, mend ? "; mend: " : "",
		 mend ? mend : "", argument);
}

static _Noreturn void refuse(int status, const char *subject, const char *rule, const char *mend)
{
	compose(subject, rule, mend);
	if (!CHECK_ONLY) { /* first, since the caller's standard error may be the end of ppy */
		if (log_socket < 0) {
			close(0); /* a place that no limit denies */
			open_log();
		}
		log_message(LOG_AUTHPRIV_WARNING);
	}
	print_message(2, CHECK_ONLY ? "REFUSED " : "ppy: ");
	_exit(failed ? REFUSED : status);
}

static _Noreturn void refuse_errno(const char *subject)
{
	refuse(REFUSED, subject, strerror(errno), NULL);
}

static void must(bool holds, const char *subject, const char *rule, const char *mend)
{
	if (!CHECK_ONLY && !holds)
		refuse(REFUSED, subject, rule, mend);
	if (!CHECK_ONLY)
		return;
	failed |= !holds;
	compose(subject, rule, holds ? NULL : mend);
	print_message(1, holds ? "ok      " : "REFUSED ");
}

#endif
