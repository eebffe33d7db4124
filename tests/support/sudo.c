/* sudo, as far as the documents use it. Set-user-ID root, on a mount that only its test can see. */
#define _GNU_SOURCE
#include <err.h>
#include <grp.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	if (argc < 2 || setgroups(0, NULL) || setresgid(0, 0, 0) || setresuid(0, 0, 0))
		errx(1, "usage: sudo COMMAND");
	clearenv();
	setenv("HOME", "/root", 1);
	setenv("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", 1);
	umask(022);
	execvp(argv[1], argv + 1);
	err(127, "%s", argv[1]);
}
