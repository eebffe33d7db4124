/* System calls on every thread of the process, also on those that no library knows of. */
#ifndef THREADS_H
#define THREADS_H

#include <sys/types.h>

struct call {
	long number;
	unsigned long arguments[5];
};

enum { MAX_THREADS = 16384, THREADS_NAMED = 16 };

/* What went wrong, if error is not 0. Where call is -1 nothing was changed: the `count` threads
   (the first of them in `threads`) did not answer, or with EBUSY never will, as io_uring's; with
   a count of 0 none could be asked: EBUSY for want of a signal, EAGAIN of room in the queue of
   signals, E2BIG for more than MAX_THREADS. Else that call failed on those threads. */
struct outcome {
	int error;
	int call;
	int count;
	pid_t threads[THREADS_NAMED];
};

/* On this thread; on all, if they answer within milliseconds; on all, however long they take. */
enum reach { HERE, AT_ONCE, PATIENTLY };

/* Makes the calls in turn. */
struct outcome threads_call(const struct call *calls, int count, enum reach reach);

#endif
