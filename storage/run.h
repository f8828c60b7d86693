/*
 * run: one life of a server between a start of recovery and the next, shared by its processes (W5).
 *
 * A run has a generation of its own, drawn when a startup process begins (a crash-restart within one postmaster is a
 * new run too), and writes WAL under no other. The state lies in one shared page that the postmaster maps before it
 * forks. Tools and single-user servers have one of their own.
 */
#ifndef STORAGE_RUN_H
#define STORAGE_RUN_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/err.h"

struct run {
	atomic_uint generation;
	atomic_uint change;     /* odd while a page on disk is changing its generation */
	atomic_bool first_done; /* the run has written WAL: nothing on disk is older than that any more */
	pthread_mutex_t lock, files;
};
extern struct run *run; /* NULL before run_map */

int run_map(struct err *err);
/* Draw a generation, forget the previous run, replay what the journal holds. */
int run_begin(struct err *err);
/* Around the first write and changes of a page's generation; survives the death of its holder. */
void run_lock(void);
void run_unlock(void);
/* Around reads and writes of files that several processes change at a time and that change in larger units. */
void run_files_lock(void);
void run_files_unlock(void);

/* Around the write itself of a page that changes its generation, ... */
void run_change_begin(void);
void run_change_end(void);
/* ... so that readers of WAL see it before or after, never half: read between the two calls until the second is true.
 */
unsigned run_read_begin(void);
bool run_read_end(unsigned begun);

#endif
