/* What the kernel takes for the calls themselves: calls WHAT LOOPS [FILE] prints the seconds. */
#define _GNU_SOURCE
#include <linux/capability.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

static const char attribute[] = "security.capability";

static void activate(const char *file)
{
	(void)file;
	struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
	struct __user_cap_data_struct data[2];
	if (syscall(SYS_capget, &header, data) < 0)
		exit(1);
	data[0].effective = data[0].permitted;
	data[1].effective = data[1].permitted;
	if (syscall(SYS_capset, &header, data) < 0)
		exit(1);
}

static void bounding(const char *file)
{
	(void)file;
	for (int cap = 0; prctl(PR_CAPBSET_READ, cap) >= 0; cap++)
		;
}

static struct vfs_cap_data mark;

static void read_file(const char *file)
{
	if (getxattr(file, attribute, &mark, sizeof mark) < 0)
		exit(1);
}

static void write_file(const char *file)
{
	if (setxattr(file, attribute, &mark, sizeof mark, 0) < 0)
		exit(1);
}

static double now(void)
{
	struct timespec time;
	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		void (*call)(const char *file);
	} calls[] = {{"activate", activate},
		     {"bounding", bounding},
		     {"read", read_file},
		     {"write", write_file}};
	if (argc != 4)
		return 2;
	for (size_t n = 0; n < sizeof calls / sizeof *calls; n++) {
		if (strcmp(argv[1], calls[n].name) != 0)
			continue;
		if (calls[n].call == write_file)
			read_file(argv[3]);
		double start = now();
		for (long loops = atol(argv[2]); loops > 0; loops--)
			calls[n].call(argv[3]);
		printf("%.9f\n", now() - start);
		return 0;
	}
	return 2;
}
