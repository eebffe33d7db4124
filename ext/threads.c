/* Every thread is asked by a signal to stop in answer(); only when all have come do they make the
   calls, the asking thread first. No lock of the C library is taken meanwhile, since a stopped
   thread may hold it. nptl(7) does the same for setuid(2), but only for threads it made. */
#define _GNU_SOURCE
#include "threads.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* Seconds without a newcomer after which a round is given up; they make two and a half in all. */
static const double FIRST_ROUND = 0.004, LAST_ROUND = 0.256;
enum { ASKED, CAME, DONE, GONE };
enum { OPEN, COMMITTED, CANCELLED };

static struct slot {
	pid_t tid;
	atomic_int state;
	int asked_in, seen_in; /* numbers of scans */
	bool is_worker;
	int error, call;
} slots[MAX_THREADS];
static int used, scans;
/* The number of a thread's slot and one, found from its id; many threads would be long to search.
 */
static uint16_t places[2 * MAX_THREADS];
static struct { /* how many threads the last scan found so */
	unsigned long stopped, waiting, refused, workers;
} seen;

static pthread_mutex_t one_at_a_time = PTHREAD_MUTEX_INITIALIZER;
static atomic_int decision;
static const struct call *agenda;
static int agenda_length;

static int make_calls(int *failing)
{
	for (int n = 0; n < agenda_length; n++) {
		const unsigned long *a = agenda[n].arguments;
		if (syscall(agenda[n].number, a[0], a[1], a[2], a[3], a[4]) < 0) {
			*failing = n;
			return errno;
		}
	}
	return 0;
}

static void answer(int signal, siginfo_t *info, void *context)
{
	(void)signal;
	(void)context;
	int kept = errno;
	unsigned int n = (unsigned int)info->si_value.sival_int;
	int asked = ASKED; /* a request that was given up meanwhile is not */
	if (info->si_code == SI_QUEUE && n < MAX_THREADS && slots[n].tid == syscall(SYS_gettid) &&
	    atomic_compare_exchange_strong(&slots[n].state, &asked, CAME)) {
		while (atomic_load(&decision) == OPEN)
			syscall(SYS_futex, &decision, FUTEX_WAIT_PRIVATE, OPEN, NULL, NULL, 0);
		slots[n].error = 0;
		if (atomic_load(&decision) == COMMITTED)
			slots[n].error = make_calls(&slots[n].call);
		atomic_store(&slots[n].state, DONE);
	}
	errno = kept;
}

/* A real-time signal that the program does not use. It stays ours, for a thread that blocks it
   now will get it later and must not die of it. */
static int claim_signal(void)
{
	for (int signal = SIGRTMAX; signal >= SIGRTMIN; signal--) {
		struct sigaction now, ours = {.sa_sigaction = answer,
					      .sa_flags = SA_SIGINFO | SA_RESTART | SA_ONSTACK};
		sigfillset(&ours.sa_mask);
		if (sigaction(signal, NULL, &now) == 0 &&
		    (now.sa_sigaction == answer || now.sa_handler == SIG_DFL))
			return sigaction(signal, &ours, NULL) == 0 ? signal : 0;
	}
	return 0;
}

/* The state letter of a thread and the kernel's flags of it, see proc(5); false if it is gone. */
static bool read_stat(int tasks, const char *tid, char *state, unsigned long *flags)
{
	char path[32], stat[256];
	ssize_t length = -1;
	int fd = openat(tasks, strcat(strncpy(path, tid, 16), "/stat"), O_RDONLY | O_CLOEXEC);
	if (fd >= 0) {
		length = read(fd, stat, sizeof stat - 1);
		close(fd);
	}
	stat[length > 0 ? length : 0] = '\0';
	const char *field = strrchr(stat, ')');
	if (!field || field[1] != ' ')
		return false;
	*state = field[2];
	for (int spaces = 0; field && spaces < 7; spaces++)
		field = strchr(field + 1, ' ');
	*flags = field ? strtoul(field, NULL, 10) : 0;
	return true;
}

/* The first thread stays listed as a zombie when it has ended; others are gone at once. */
static bool is_zombie(int tasks, const char *tid)
{
	char state;
	unsigned long flags;
	return read_stat(tasks, tid, &state, &flags) && state == 'Z';
}

/* A thread of io_uring's is the kernel's: it takes no signal, and keeps who made the ring. */
static bool is_io_worker(int tasks, const char *tid)
{
	const unsigned long PF_IO_WORKER = 0x10;
	char state;
	unsigned long flags;
	return read_stat(tasks, tid, &state, &flags) && flags & PF_IO_WORKER;
}

static void ask(int n, pid_t tid, int signal)
{
	siginfo_t info = {.si_code = SI_QUEUE};
	info.si_pid = getpid();
	info.si_uid = getuid();
	info.si_value.sival_int = n;
	slots[n].tid = tid;
	slots[n].asked_in = scans;
	slots[n].is_worker = false;
	atomic_store(&slots[n].state, ASKED);
	int failed = syscall(SYS_rt_tgsigqueueinfo, getpid(), tid, signal, &info) ? errno : 0;
	if (failed)
		atomic_store(&slots[n].state, GONE);
	seen.refused += failed == EAGAIN;
	seen.waiting += !failed;
}

static uint16_t *place_of(pid_t tid)
{
	const unsigned int length = sizeof places / sizeof *places;
	unsigned int at = (unsigned int)tid % length;
	while (places[at] && slots[places[at] - 1].tid != tid)
		at = (at + 1) % length;
	return &places[at];
}

/* Looks at one listed thread, and asks it if it was not asked before. */
static void meet(int tasks, const char *name, pid_t self, int signal)
{
	pid_t tid = (pid_t)strtol(name, NULL, 10);
	if (tid == self || (tid == getpid() && is_zombie(tasks, name))) {
		seen.stopped++;
		return;
	}
	if (tid <= 0)
		return;
	uint16_t *place = place_of(tid);
	bool is_new = *place == 0;
	if (is_new && used == MAX_THREADS)
		return;
	if (is_new)
		*place = (uint16_t)++used;
	int n = *place - 1;
	slots[n].seen_in = scans;
	int state = is_new ? GONE : atomic_load(&slots[n].state);
	if (state == GONE)
		ask(n, tid, signal);
	seen.stopped += state == CAME;
	seen.waiting += state == ASKED;
	if (state == ASKED && slots[n].asked_in == scans - 1)
		seen.workers += slots[n].is_worker = is_io_worker(tasks, name);
}

/* 0 if all threads are stopped, ETIMEDOUT while they are not. The listing leaves some out where
   others end meanwhile, but the links of its directory are two and one for every thread. */
static int ask_all(pid_t self, int signal)
{
	struct entry { /* linux_dirent64 of getdents64(2) */
		unsigned long long inode, offset;
		unsigned short length;
		unsigned char type;
		char name[];
	};
	_Alignas(struct entry) char entries[4096];
	int tasks = open("/proc/self/task", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (tasks < 0)
		return errno;
	struct stat directory;
	int error = fstat(tasks, &directory) == 0 ? 0 : errno;
	if (!error && directory.st_nlink > 2 + 1 + MAX_THREADS)
		error = E2BIG;
	memset(&seen, 0, sizeof seen);
	scans++;
	long length = 0;
	while (!error && (length = syscall(SYS_getdents64, tasks, entries, sizeof entries)) > 0)
		for (long at = 0; at < length;) {
			const struct entry *entry = (const struct entry *)(entries + at);
			meet(tasks, entry->name, self, signal);
			at += entry->length;
		}
	bool complete = fstat(tasks, &directory) == 0 && directory.st_nlink == 2 + seen.stopped;
	close(tasks);
	if (error || complete)
		return error;
	if (seen.workers)
		return EBUSY;
	return seen.refused && !seen.waiting ? EAGAIN : ETIMEDOUT;
}

static void pause_for(long nanoseconds)
{
	nanosleep(&(struct timespec){.tv_nsec = nanoseconds}, NULL);
}

static double now(void)
{
	struct timespec time;
	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static void note(struct outcome *outcome, int error, int call, pid_t tid)
{
	outcome->error = error;
	outcome->call = call;
	if (outcome->count < THREADS_NAMED)
		outcome->threads[outcome->count] = tid;
	outcome->count++;
}

/* Withdraws the requests that nobody answered. With an error it notes the living threads that did
   not, or only those of io_uring's if they are the reason. */
static void withdraw(int error, struct outcome *outcome)
{
	for (int n = 0; n < used; n++) {
		int asked = ASKED;
		if (atomic_compare_exchange_strong(&slots[n].state, &asked, GONE) && error &&
		    slots[n].seen_in == scans && (error != EBUSY || slots[n].is_worker))
			note(outcome, error, -1, slots[n].tid);
	}
	outcome->error = error;
	outcome->call = -1;
}

static void decide(int verdict, struct outcome *outcome)
{
	atomic_store(&decision, verdict);
	syscall(SYS_futex, &decision, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
	for (int n = 0; n < used; n++) {
		while (atomic_load(&slots[n].state) == CAME)
			pause_for(20000);
		if (atomic_load(&slots[n].state) == DONE && slots[n].error)
			note(outcome, slots[n].error, slots[n].call, slots[n].tid);
	}
}

static void lock(void)
{
	pthread_mutex_lock(&one_at_a_time);
}

static void unlock(void)
{
	pthread_mutex_unlock(&one_at_a_time);
}

/* A child of fork(2) must find neither the lock taken nor a call half made. */
static void guard_fork(void)
{
	pthread_atfork(lock, unlock, unlock);
}

/* Lets all go on for a while: who came may hold what another needs before it can come, as a
   thread that holds Python's lock keeps one from returning from vfork(2). */
static void retreat(double seconds)
{
	struct outcome ignored = {0};
	withdraw(ETIMEDOUT, &ignored);
	decide(CANCELLED, &ignored);
	pause_for((long)(seconds * 1e9));
}

/* 0 when all other threads have come, else why they have not. */
static int stop_others(pid_t self, double last_round)
{
	int signal = claim_signal();
	int error = signal ? ETIMEDOUT : EBUSY;
	for (double round = FIRST_ROUND; error == ETIMEDOUT && round <= last_round; round *= 1.25) {
		if (round > FIRST_ROUND)
			retreat(round);
		used = 0;
		memset(places, 0, sizeof places);
		atomic_store(&decision, OPEN);
		unsigned long most = 0;
		double end = now() + round;
		do { /* once at least, however long this thread was kept from it */
			error = ask_all(self, signal);
			if (seen.stopped > most) {
				most = seen.stopped;
				end = now() + round;
			}
			if (error == ETIMEDOUT)
				pause_for(100000);
		} while (error == ETIMEDOUT && now() < end);
	}
	return error;
}

struct outcome threads_call(const struct call *calls, int count, enum reach reach)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	struct outcome outcome = {0};
	pthread_once(&once, guard_fork);
	if (reach == AT_ONCE && pthread_mutex_trylock(&one_at_a_time))
		return (struct outcome){.error = ETIMEDOUT, .call = -1};
	if (reach != AT_ONCE)
		lock();
	pid_t self = (pid_t)syscall(SYS_gettid);
	agenda = calls;
	agenda_length = count;
	used = 0;
	double last_round = reach == AT_ONCE ? FIRST_ROUND : LAST_ROUND;
	int failing = 0, error = reach == HERE ? 0 : stop_others(self, last_round);
	/* On success too: a thread that was asked may have ended, and its id comes back. */
	withdraw(error, &outcome);
	if (!error && (error = make_calls(&failing)) != 0)
		note(&outcome, error, failing, self);
	decide(outcome.error ? CANCELLED : COMMITTED, &outcome);
	atomic_store(&decision, CANCELLED); /* whoever answers from now on finds nothing to do */
	agenda_length = 0;
	unlock();
	return outcome;
}
