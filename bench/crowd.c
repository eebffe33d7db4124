/* crowd COUNT: so many processes that sleep, until standard input ends. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	char byte;
	signal(SIGTERM, SIG_IGN);
	if (argc != 2 || setpgid(0, 0) < 0)
		return 2;
	for (long count = atol(argv[1]); count > 0; count--) {
		pid_t child = fork();
		if (child < 0)
			break;
		if (child == 0) {
			signal(SIGTERM, SIG_DFL);
			for (;;)
				pause();
		}
	}
	puts("ready");
	fflush(stdout);
	while (read(0, &byte, 1) > 0)
		;
	kill(0, SIGTERM);
	while (wait(NULL) > 0)
		;
	return 0;
}
