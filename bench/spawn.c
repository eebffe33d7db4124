/* spawn LOOPS COMMAND...: starts a program so often, one after the other, prints the seconds. */
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>

extern char **environ;

static double now(void)
{
	struct timespec time;
	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

int main(int argc, char **argv)
{
	posix_spawn_file_actions_t quiet;
	if (argc < 3 || posix_spawn_file_actions_init(&quiet) ||
	    posix_spawn_file_actions_addopen(&quiet, 1, "/dev/null", O_WRONLY, 0))
		return 2;
	double start = now();
	for (long loops = atol(argv[1]); loops > 0; loops--) {
		pid_t child;
		int status;
		if (posix_spawn(&child, argv[2], &quiet, NULL, argv + 2, environ) ||
		    waitpid(child, &status, 0) != child || status)
			return 1;
	}
	printf("%.9f\n", now() - start);
	return 0;
}
