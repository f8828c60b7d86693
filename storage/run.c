#include "storage/run.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "storage/walchange.h"
#include "walcrypt/wal.h"

struct run *run;

/* A change is one write of a page; whoever died in the middle of it does not hold readers up longer than this. */
#define CHANGE_WAIT_NS 100000
#define CHANGE_WAITS 10000

static void
init_lock(pthread_mutex_t *lock)
{
	pthread_mutexattr_t attr;

	pthread_mutexattr_init(&attr);
	pthread_mutexattr_setpshared(&attr, PTHREAD_PROCESS_SHARED);
	pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST);
	memset(lock, 0, sizeof(*lock));
	pthread_mutex_init(lock, &attr);
	pthread_mutexattr_destroy(&attr);
}

int
run_map(struct err *err)
{
	void *map;

	if (run != NULL)
		return 0;
	map = mmap(NULL, sizeof(*run), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (map == MAP_FAILED)
		return err_os(err, errno, "could not map the storage layer's shared memory");
	run = map;
	init_lock(&run->lock);
	init_lock(&run->files);
	return 0;
}

int
run_begin(struct err *err)
{
	uint32_t generation;

	if (wal_random_generation(&generation, err) != 0)
		return -1;
	/* whoever could hold a lock belonged to the previous run and is dead */
	init_lock(&run->lock);
	init_lock(&run->files);
	atomic_store(&run->change, 0);
	atomic_store(&run->first_done, false);
	atomic_store(&run->generation, generation);
	return walchange_replay(err);
}

static void
lock(pthread_mutex_t *mutex)
{
	if (pthread_mutex_lock(mutex) == EOWNERDEAD)
		pthread_mutex_consistent(mutex);
}

void
run_lock(void)
{
	lock(&run->lock);
}

void
run_unlock(void)
{
	pthread_mutex_unlock(&run->lock);
}

void
run_files_lock(void)
{
	lock(&run->files);
}

void
run_files_unlock(void)
{
	pthread_mutex_unlock(&run->files);
}

void
run_change_begin(void)
{
	atomic_fetch_add(&run->change, 1);
}

void
run_change_end(void)
{
	atomic_fetch_add(&run->change, 1);
}

unsigned
run_read_begin(void)
{
	struct timespec pause = {.tv_nsec = CHANGE_WAIT_NS};
	unsigned now = atomic_load(&run->change);

	for (int i = 0; (now & 1) != 0 && i < CHANGE_WAITS; i++) {
		nanosleep(&pause, NULL);
		now = atomic_load(&run->change);
	}
	return now;
}

bool
run_read_end(unsigned begun)
{
	atomic_thread_fence(memory_order_acquire);
	return atomic_load(&run->change) == begun;
}
