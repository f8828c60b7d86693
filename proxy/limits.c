#include "proxy/limits.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/clock.h"
#include "proxy/locked.h"

/* An address has a place within REACH of where its bytes point. */
#define PLACES 4096
#define REACH 16
#define WINDOW_S 60

struct place {
	uint8_t addr[16];
	int waiting, failed; /* failed: since `since` */
	time_t since;
	bool refused; /* the last one was */
};

struct limits {
	pthread_mutex_t mutex;
	int most, most_per_address, most_failed;
	int waiting;
	struct place places[PLACES];
};

struct limits *
limits_new(struct err *err)
{
	return locked_new(sizeof(struct limits), err);
}

void
limits_free(struct limits *l)
{
	locked_free(l);
}

void
limits_set(struct limits *l, const struct settings *settings)
{
	pthread_mutex_lock(&l->mutex);
	l->most = settings->max_logins;
	l->most_per_address = settings->max_logins_per_address;
	l->most_failed = settings->max_failed_logins;
	pthread_mutex_unlock(&l->mutex);
}

static bool
idle(const struct place *p, time_t now)
{
	return p->waiting == 0 && (p->failed == 0 || now - p->since >= WINDOW_S);
}

/* The address's place; with make a free one when it has none. NULL when there is none, or for a Unix socket. */
static struct place *
place(struct limits *l, const struct peer *peer, bool make)
{
	static const uint8_t v4[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF};
	struct place *unused = NULL;
	time_t now = clock_now_s();
	uint32_t at = 2166136261u;
	uint8_t addr[16];

	if (!address_bytes((const struct sockaddr *)&peer->addr, addr))
		return NULL;
	if (memcmp(addr, v4, sizeof(v4)) != 0)
		memset(addr + 8, 0, 8);
	for (size_t i = 0; i < sizeof(addr); i++)
		at = (at ^ addr[i]) * 16777619u;
	for (unsigned i = 0; i < REACH; i++) {
		struct place *p = &l->places[(at + i) % PLACES];

		if (memcmp(p->addr, addr, sizeof(addr)) == 0) {
			if (idle(p, now))
				p->failed = 0;
			return p;
		}
		if (unused == NULL && idle(p, now))
			unused = p;
	}
	if (make && unused != NULL) {
		memset(unused, 0, sizeof(*unused));
		memcpy(unused->addr, addr, sizeof(addr));
		return unused;
	}
	return NULL;
}

const char *
limits_enter(struct limits *l, const struct peer *peer, bool *first)
{
	const char *why = NULL;
	struct place *p;

	pthread_mutex_lock(&l->mutex);
	p = place(l, peer, true);
	if (l->waiting >= l->most)
		why = "max_logins connections have not authenticated yet";
	else if (p == NULL && peer->addr.ss_family != AF_UNIX)
		why = "too many addresses have connections that have not authenticated yet";
	else if (p != NULL && p->waiting >= l->most_per_address)
		why = "max_logins_per_address connections from there have not authenticated yet";
	else if (p != NULL && l->most_failed > 0 && p->failed >= l->most_failed && clock_now_s() - p->since < WINDOW_S)
		why = "max_failed_logins authentications from there have failed within a minute";
	*first = p == NULL || !p->refused;
	if (p != NULL)
		p->refused = why != NULL;
	if (why == NULL) {
		l->waiting++;
		if (p != NULL)
			p->waiting++;
	}
	pthread_mutex_unlock(&l->mutex);
	return why;
}

void
limits_leave(struct limits *l, const struct peer *peer)
{
	struct place *p;

	pthread_mutex_lock(&l->mutex);
	l->waiting--;
	/* it is there: a place with somebody waiting is not given away */
	if ((p = place(l, peer, false)) != NULL)
		p->waiting--;
	pthread_mutex_unlock(&l->mutex);
}

void
limits_failed(struct limits *l, const struct peer *peer)
{
	struct place *p;

	pthread_mutex_lock(&l->mutex);
	if ((p = place(l, peer, false)) != NULL) {
		if (p->failed == 0 || clock_now_s() - p->since >= WINDOW_S) {
			p->failed = 0;
			p->since = clock_now_s();
		}
		p->failed++;
	}
	pthread_mutex_unlock(&l->mutex);
}
