/* What ppy would be without its protections: the tests show on it that their attacks are real.
   It starts argv[1] as the owner of that file, with the inheritable capabilities of that file,
   under the program that a link beside it names. Install it set-uid root, in a test only. */
#define _GNU_SOURCE
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/capability.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

static void give(cap_t mark)
{
	cap_t caps = cap_init();
	for (cap_value_t cap = 0; mark && cap < cap_max_bits(); cap++) {
		cap_flag_value_t value = CAP_CLEAR;
		cap_get_flag(mark, cap, CAP_INHERITABLE, &value);
		for (cap_flag_t set = CAP_EFFECTIVE; set <= CAP_INHERITABLE; set++)
			cap_set_flag(caps, set, 1, &cap, value);
	}
	cap_set_proc(caps);
	for (cap_value_t cap = 0; cap < cap_max_bits(); cap++)
		cap_set_ambient(cap, CAP_SET); /* fails for what is not in the mark */
}

/* The environment as the caller made it: glibc removes a part of it, other C libraries do not. */
static char **everything(void)
{
	static char text[1 << 20], *variables[8192];
	FILE *file = fopen("/proc/self/environ", "r");
	size_t length = file ? fread(text, 1, sizeof text - 1, file) : 0, count = 0;
	for (char *c = text; c < text + length && count < 8191; c += strlen(c) + 1)
		variables[count++] = c;
	if (file)
		fclose(file);
	return variables;
}

int main(int argc, char **argv)
{
	char script[PATH_MAX], interpreter[2 * PATH_MAX] = "";
	struct stat st;
	(void)argc;
	strcpy(script, argv[1]);
	if (stat(script, &st) < 0) {
		fprintf(stderr, "naive: %s: %s\n", script, strerror(errno));
		return 127;
	}
	if (readlink("/proc/self/exe", interpreter, PATH_MAX) < 0)
		return 126;
	strcpy(strrchr(interpreter, '/'), "/interpreter");
	char **environment = everything();
	cap_t mark = cap_get_file(script);
	prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0);
	if (setgid(st.st_gid) < 0 || setuid(st.st_uid) < 0)
		fprintf(stderr, "naive: %s, but on it goes\n", strerror(errno));
	give(mark);
	execve(interpreter, argv, environment);
	return 126;
}
