/* Threads that no library knows of, made by clone(2), and handlers on every real-time signal.
   Their work makes system calls directly: they have no thread-local storage of their own. */
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { STACK = 1 << 16, STACKS = 256, SIGNALS = 65 };

struct job {
	atomic_int started, stop;
	int fd;
	long result;
};

/* Starts work on a stack that no thread is on any more; the thread's id, -1 with errno. */
long start(int (*work)(void *), struct job *job)
{
	static atomic_int busy[STACKS]; /* the kernel clears it when the thread has ended */
	static char *stacks;
	static atomic_uint next;
	if (!stacks)
		stacks = mmap(NULL, (size_t)STACKS * STACK, PROT_READ | PROT_WRITE,
			      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (stacks == MAP_FAILED)
		return -1;
	unsigned int n;
	for (int idle = 0;; idle = 0) {
		n = atomic_fetch_add(&next, 1) % STACKS;
		if (atomic_compare_exchange_strong(&busy[n], &idle, 1))
			break;
	}
	int flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD |
		    CLONE_SYSVSEM | CLONE_CHILD_CLEARTID;
	return clone(work, stacks + (n + 1) * STACK, flags, job, NULL, NULL, &busy[n]);
}

int spin(void *argument)
{
	struct job *job = argument;
	for (atomic_store(&job->started, 1); !atomic_load(&job->stop);)
		;
	return 0;
}

/* One read(2), which nobody repeats. */
int read_once(void *argument)
{
	struct job *job = argument;
	char byte;
	atomic_store(&job->started, 1);
	long length = syscall(SYS_read, job->fd, &byte, 1);
	job->result = length < 0 ? -errno : length;
	atomic_store(&job->stop, 1);
	return 0;
}

/* Blocks every signal, those of the C library too, until told to stop; then takes them. */
int deaf(void *argument)
{
	struct job *job = argument;
	unsigned long all = ~0UL, none = 0;
	syscall(SYS_rt_sigprocmask, SIG_SETMASK, &all, NULL, sizeof all);
	for (atomic_store(&job->started, 1); !atomic_load(&job->stop);)
		syscall(SYS_sched_yield);
	syscall(SYS_rt_sigprocmask, SIG_SETMASK, &none, NULL, sizeof none);
	job->result = 1;
	atomic_store(&job->started, 0);
	return 0;
}

/* Blocks every signal, and ends as soon as one is waiting for it. */
int vanish(void *argument)
{
	struct job *job = argument;
	unsigned long all = ~0UL, waiting = 0;
	syscall(SYS_rt_sigprocmask, SIG_SETMASK, &all, NULL, sizeof all);
	for (atomic_store(&job->started, 1); !waiting;)
		syscall(SYS_rt_sigpending, &waiting, sizeof waiting);
	return 0;
}

/* Sends a thread what threads.c asks with, as any process of the same user can. */
int ask(int thread, int slot)
{
	siginfo_t info = {.si_code = SI_QUEUE};
	info.si_pid = getpid();
	info.si_value.sival_int = slot;
	return (int)syscall(SYS_rt_tgsigqueueinfo, getpid(), thread, SIGRTMAX, &info);
}

/* A thread that starts its successor and ends, until told to stop. */
int relay(void *argument)
{
	struct job *job = argument;
	atomic_store(&job->started, 1);
	if (!atomic_load(&job->stop))
		start(relay, job);
	return 0;
}

static atomic_int caught[SIGNALS];

static void count(int signal)
{
	atomic_fetch_add(&caught[signal], 1);
}

int take(int signal)
{
	struct sigaction ours = {.sa_handler = count};
	return sigaction(signal, &ours, NULL);
}

/* How often a signal that was taken has come, -1 where its handler is no longer ours. */
int times(int signal)
{
	struct sigaction now;
	return sigaction(signal, NULL, &now) < 0 || now.sa_handler != count ? -1 : caught[signal];
}
