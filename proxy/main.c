/* walcrypt-proxy: options, start, signals, end. docs/proxy.md is the manual. */
#include <errno.h>
#include <ev.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "common/log.h"
#include "common/options.h"
#include "proxy/authquery.h"
#include "proxy/listener.h"
#include "proxy/proxy.h"
#include "proxy/worker.h"
#include "walcrypt/secmem.h"

/* Keys and key schedules: one session's ciphers need a few KiB. */
#define SECMEM_LEN (4u << 20)

struct arguments {
	const char *config;
	bool test, help, version;
};

static const struct option_def defs[] = {
    {"config", 'c', OPTION_TEXT, offsetof(struct arguments, config), "FILE", "the configuration: walcrypt.ini", 0, 0},
    {"test", 't', OPTION_FLAG, offsetof(struct arguments, test), NULL, "check the configuration and end", 0, 0},
    {"help", 'h', OPTION_HELP, offsetof(struct arguments, help), NULL, "show this and end", 0, 0},
    {"version", 'V', OPTION_FLAG, offsetof(struct arguments, version), NULL, "show the version and end", 0, 0},
    {0},
};

/* The main thread's part: signals, the listener, reloads. */
struct master {
	struct proxy proxy; /* first: what the console gives back */
	struct ev_loop *loop;
	struct listener *listener;
	ev_signal sigterm, sigint, sighup;
	ev_async asked, reloaded;
	atomic_bool ask_stop, ask_reload;
	int stopping;        /* 1 gracefully, 2 fast */
	atomic_size_t ended; /* workers */
	/* the thread that reloads, because a provider may take its time */
	pthread_t reloader;
	bool reloading, reload_again;
	struct site *fresh;
	struct err fresh_err;
};

static void
give(void *arg, int fd, const struct peer *peer)
{
	struct master *m = arg;
	struct worker *least = m->proxy.workers[0];

	for (size_t i = 1; i < m->proxy.nworkers; i++)
		if (worker_load(m->proxy.workers[i]) < worker_load(least))
			least = m->proxy.workers[i];
	worker_give(least, fd, peer);
}

static void
stop(struct master *m, const char *why)
{
	m->stopping = m->stopping == 0 ? 1 : 2;
	log_info("%s: stopping%s", why, m->stopping == 1 ? "; once more makes it fast" : " fast");
	listener_free(m->listener);
	m->listener = NULL;
	for (size_t i = 0; i < m->proxy.nworkers; i++)
		worker_stop(m->proxy.workers[i], m->stopping > 1);
}

static void
on_stop_signal(struct ev_loop *loop, ev_signal *w, int revents)
{
	(void)loop;
	(void)revents;
	stop(w->data, w->signum == SIGINT ? "SIGINT" : "SIGTERM");
}

static void *
reload_run(void *arg)
{
	struct master *m = arg;

	m->fresh = site_load(m->proxy.conf_file, &m->fresh_err);
	ev_async_send(m->loop, &m->reloaded);
	return NULL;
}

static void
reload(struct master *m)
{
	int rc;

	if (m->reloading) {
		m->reload_again = true;
		return;
	}
	log_info("reading \"%s\" again", m->proxy.conf_file);
	if ((rc = pthread_create(&m->reloader, NULL, reload_run, m)) != 0)
		log_error("could not start a thread to reload: %s", strerror(rc));
	else
		m->reloading = true;
}

static bool
differ(const char *a, const char *b)
{
	return (a == NULL) != (b == NULL) || (a != NULL && strcmp(a, b) != 0);
}

static bool
listens_differ(const struct settings *a, const struct settings *b)
{
	if (a->nlistens != b->nlistens)
		return true;
	for (size_t i = 0; i < a->nlistens; i++)
		if (differ(a->listens[i].name, b->listens[i].name) || differ(a->listens[i].addr, b->listens[i].addr) ||
		    a->listens[i].port != b->listens[i].port)
			return true;
	return false;
}

/* Some options are only read at start. */
static void
say_what_stays(const struct settings *old, const struct settings *now)
{
	if (old->listen_port != now->listen_port || differ(old->listen_addr, now->listen_addr) ||
	    differ(old->unix_socket_dir, now->unix_socket_dir))
		log_warning("listen_addr, listen_port and unix_socket_dir change at the next start");
	if (listens_differ(old, now))
		log_warning("[listen] sections change at the next start, but for their users");
	/* connections beyond loopback were turned away, or not, by the one that was there at the start */
	if (old->auth != now->auth && (old->auth == SETTINGS_TRUST || now->auth == SETTINGS_TRUST))
		log_warning("auth_type changes from or to trust at the next start");
	if (old->workers != now->workers)
		log_warning("workers changes at the next start");
	if (differ(old->keystore, now->keystore) || differ(old->ledger, now->ledger))
		log_warning("ledger, and the timelines kept in keystore, change at the next start");
}

static void
on_reloaded(struct ev_loop *loop, ev_async *w, int revents)
{
	struct master *m = w->data;
	struct site *old;

	(void)loop;
	(void)revents;
	pthread_join(m->reloader, NULL);
	m->reloading = false;
	if (m->fresh == NULL)
		log_err(LOG_ERROR, &m->fresh_err, "the configuration stays as it was");
	else {
		old = proxy_site(&m->proxy);
		say_what_stays(old->settings, m->fresh->settings);
		site_unref(old);
		log_set_level(m->fresh->settings->log_level);
		limits_set(m->proxy.limits, m->fresh->settings);
		authquery_forget(m->proxy.authquery);
		proxy_set_site(&m->proxy, m->fresh);
		m->fresh = NULL;
		log_info("reloaded; sessions that are there keep what they began with");
	}
	if (m->reload_again) {
		m->reload_again = false;
		reload(m);
	}
}

static void
on_reload_signal(struct ev_loop *loop, ev_signal *w, int revents)
{
	(void)loop;
	(void)revents;
	reload(w->data);
}

static void
on_asked(struct ev_loop *loop, ev_async *w, int revents)
{
	struct master *m = w->data;

	(void)loop;
	(void)revents;
	if (atomic_exchange(&m->ask_reload, false))
		reload(m);
	if (atomic_exchange(&m->ask_stop, false) && m->stopping == 0)
		stop(m, "SHUTDOWN");
	if (m->stopping != 0 && m->ended == m->proxy.nworkers)
		ev_break(m->loop, EVBREAK_ALL);
}

static void
ask_reload(struct proxy *p)
{
	struct master *m = (struct master *)p;

	m->ask_reload = true;
	ev_async_send(m->loop, &m->asked);
}

static void
ask_stop(struct proxy *p)
{
	struct master *m = (struct master *)p;

	m->ask_stop = true;
	ev_async_send(m->loop, &m->asked);
}

static void
watch(struct master *m)
{
	ev_signal_init(&m->sigterm, on_stop_signal, SIGTERM);
	ev_signal_init(&m->sigint, on_stop_signal, SIGINT);
	ev_signal_init(&m->sighup, on_reload_signal, SIGHUP);
	ev_async_init(&m->asked, on_asked);
	ev_async_init(&m->reloaded, on_reloaded);
	m->sigterm.data = m->sigint.data = m->sighup.data = m->asked.data = m->reloaded.data = m;
	ev_signal_start(m->loop, &m->sigterm);
	ev_signal_start(m->loop, &m->sigint);
	ev_signal_start(m->loop, &m->sighup);
	ev_async_start(m->loop, &m->asked);
	ev_async_start(m->loop, &m->reloaded);
}

/* Nobody finds keys in a core dump, in swap, or in memory that was freed. */
static int
seal(struct err *err)
{
	const struct rlimit none = {0, 0};

	if (setrlimit(RLIMIT_CORE, &none) != 0)
		return err_os(err, errno, "could not turn core dumps off");
	return secmem_init(SECMEM_LEN, err) != 0 || secmem_hook_openssl(err) != 0 ? -1 : 0;
}

static int
open_keystore(struct master *m, struct err *err)
{
	const struct settings *settings;
	char path[PATH_MAX];

	if ((m->proxy.site = site_load(m->proxy.conf_file, err)) == NULL)
		return -1;
	settings = m->proxy.site->settings;
	log_set_level(settings->log_level);
	if ((m->proxy.limits = limits_new(err)) == NULL)
		return -1;
	limits_set(m->proxy.limits, settings);
	if ((m->proxy.authquery = authquery_new(err)) == NULL)
		return -1;
	snprintf(path, sizeof(path), "%s/timelines", settings->keystore);
	if ((m->proxy.timelines = timelines_open(path, err)) == NULL)
		return -1;
	return (m->proxy.ledger = ledger_open(settings->ledger, err)) == NULL ? -1 : 0;
}

static int
start_workers(struct master *m, struct err *err)
{
	size_t n = (size_t)m->proxy.site->settings->workers;

	if ((m->proxy.workers = calloc(n, sizeof(*m->proxy.workers))) == NULL)
		return err_nomem(err);
	for (size_t i = 0; i < n; i++) {
		if ((m->proxy.workers[i] = worker_new(&m->proxy, (unsigned)i, err)) == NULL)
			return -1;
		m->proxy.nworkers++;
	}
	return 0;
}

static void
worker_ended(struct proxy *p)
{
	struct master *m = (struct master *)p;

	m->ended++;
	ev_async_send(m->loop, &m->asked);
}

/* Workers that were started end here when the start failed half-way. */
static void
finish_workers(struct master *m)
{
	for (size_t i = 0; i < m->proxy.nworkers; i++) {
		worker_stop(m->proxy.workers[i], m->stopping != 1);
		worker_join(m->proxy.workers[i]);
	}
	free(m->proxy.workers);
}

static int
run(struct master *m, struct err *err)
{
	if (seal(err) != 0 || open_keystore(m, err) != 0)
		return -1;
	/* every worker's end wakes this loop, so it is there before them */
	m->loop = ev_default_loop(0);
	if (m->loop == NULL)
		return err_set(err, ERR_FAILED, "could not make an event loop");
	watch(m);
	if (start_workers(m, err) != 0)
		return -1;
	m->listener = listener_new(m->loop, m->proxy.site->settings, m->proxy.limits, give, m, err);
	if (m->listener == NULL)
		return -1;
	log_info("walcrypt-proxy %s: %s, port %d%s%s", WALCRYPT_VERSION,
	         m->proxy.site->settings->listen_port == 0 ? "no TCP" : m->proxy.site->settings->listen_addr,
	         m->proxy.site->settings->listen_port, m->proxy.site->settings->unix_socket_dir == NULL ? "" : ", ",
	         m->proxy.site->settings->unix_socket_dir == NULL ? "" : m->proxy.site->settings->unix_socket_dir);
	ev_run(m->loop, 0);
	return 0;
}

static int
finish(struct master *m, int rc)
{
	struct err err = {0};

	listener_free(m->listener);
	authquery_stop(m->proxy.authquery);
	finish_workers(m);
	authquery_free(m->proxy.authquery);
	if (m->reloading) {
		pthread_join(m->reloader, NULL);
		site_unref(m->fresh);
	}
	if (ledger_close(m->proxy.ledger, &err) != 0) {
		log_err(LOG_ERROR, &err, NULL);
		rc = ERR_FAILED;
	}
	timelines_free(m->proxy.timelines);
	site_unref(m->proxy.site);
	limits_free(m->proxy.limits);
	registry_destroy(&m->proxy.registry);
	pthread_mutex_destroy(&m->proxy.mutex);
	if (rc == 0)
		log_info("stopped");
	return rc;
}

static int
test(const char *file)
{
	struct err err = {0};
	struct settings *s = settings_load(file, &err);
	int rc = 0;

	if (s == NULL || site_check(s, &err) != 0) {
		log_err(LOG_FATAL, &err, NULL);
		rc = (int)err.class;
	} else
		printf("%s: the configuration is fine: %zu nodes and profiles\n", s->file, s->nnodes);
	settings_free(s);
	return rc;
}

static void
help(void)
{
	puts("walcrypt-proxy encrypts what a PostgreSQL primary replicates, each standby under its own key.\n\n"
	     "Usage: walcrypt-proxy -c FILE\n\nOptions:");
	options_help(stdout, defs);
	puts("\nSignals: SIGTERM, SIGINT stop it (twice: fast); SIGHUP reads the configuration and the keystore again.");
}

int
main(int argc, char **argv)
{
	struct arguments a = {0};
	struct err err = {0};
	static struct master m;
	const char **args = calloc((size_t)argc + 1, sizeof(*args));
	size_t nargs = 0;
	int rc;

	signal(SIGPIPE, SIG_IGN);
	if (args == NULL)
		return ERR_FAILED;
	rc = options_parse(defs, OPTIONS_ALL, argc, argv, &a, args, &nargs, &err);
	if (rc == 0 && !a.help && !a.version && nargs > 0)
		rc = err_set(&err, ERR_USAGE, "unknown argument \"%s\"", args[0]);
	free(args);
	if (rc == 0 && a.help) {
		help();
		return 0;
	}
	if (rc == 0 && a.version) {
		puts("walcrypt-proxy " WALCRYPT_VERSION);
		return 0;
	}
	if (rc == 0 && a.config == NULL)
		rc = err_set(&err, ERR_USAGE, "no configuration: -c FILE is missing");
	if (rc != 0) {
		if (err.hint[0] == '\0')
			err_hint(&err, "walcrypt-proxy --help lists the options.");
		log_err(LOG_FATAL, &err, NULL);
		return ERR_USAGE;
	}
	if (a.test)
		return test(a.config);
	m.proxy.conf_file = a.config;
	m.proxy.started = time(NULL);
	m.proxy.ask_reload = ask_reload;
	m.proxy.ask_stop = ask_stop;
	m.proxy.worker_ended = worker_ended;
	pthread_mutex_init(&m.proxy.mutex, NULL);
	registry_init(&m.proxy.registry);
	rc = run(&m, &err);
	if (rc != 0)
		log_err(LOG_FATAL, &err, NULL);
	return finish(&m, rc == 0 ? 0 : (int)err.class);
}
