/* walcrypt-proxy: options, start, signals, end. docs/proxy.md is the manual. */
#include <errno.h>
#include <ev.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/log.h"
#include "common/options.h"
#include "proxy/authquery.h"
#include "proxy/keymaker.h"
#include "proxy/listener.h"
#include "proxy/notify.h"
#include "proxy/process.h"
#include "proxy/proxy.h"
#include "proxy/reload.h"
#include "proxy/renewal.h"
#include "proxy/tunables.h"
#include "proxy/web.h"
#include "proxy/worker.h"

struct arguments {
	const char *config;
	bool test, help, help_config, version;
};

static const struct option_def defs[] = {
    {"config", 'c', OPTION_TEXT, offsetof(struct arguments, config), "FILE", "the configuration: walcrypt.ini", 0, 0},
    {"test", 't', OPTION_FLAG, offsetof(struct arguments, test), NULL, "check the configuration and end", 0, 0},
    {"help", 'h', OPTION_HELP, offsetof(struct arguments, help), NULL, "show this and end", 0, 0},
    {"help-config", 0, OPTION_FLAG, offsetof(struct arguments, help_config), NULL,
     "show every option of the configuration and end", 0, 0},
    {"version", 'V', OPTION_FLAG, offsetof(struct arguments, version), NULL, "show the version and end", 0, 0},
    {0},
};

/* The main thread's part: signals, the listener, reloads. */
struct master {
	struct proxy proxy; /* first: what the console gives back */
	struct ev_loop *loop;
	struct listener *listener;
	struct web *web;  /* NULL: http_listen is not set */
	ev_timer sampler; /* of the standbys' lag */
	ev_signal sigterm, sigint, sighup;
	ev_async asked;
	ev_timer drain;
	atomic_bool ask_stop;
	enum worker_stop stopping;
	atomic_size_t ended; /* workers */
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
stop_workers(struct master *m, enum worker_stop how)
{
	m->stopping = how;
	for (size_t i = 0; i < m->proxy.nworkers; i++)
		worker_stop(m->proxy.workers[i], how);
}

static void
on_drained(struct ev_loop *loop, ev_timer *w, int revents)
{
	struct master *m = w->data;

	(void)loop;
	(void)revents;
	log_warning("drain_timeout is over: sessions that still do something are closed");
	stop_workers(m, WORKER_TELL);
}

static void
stop(struct master *m, const char *why)
{
	struct site *site = proxy_site(&m->proxy);
	double drain_s = site->settings->drain_timeout_ms / 1000.;

	site_unref(site);
	if (m->stopping != WORKER_RUNS) {
		log_info("%s: stopping fast", why);
		stop_workers(m, WORKER_FAST);
		return;
	}
	log_info("%s: stopping, commands under way have %g s; once more makes it fast", why, drain_s);
	notify_stopping(m->proxy.notify, drain_s);
	listener_free(m->listener);
	m->listener = NULL;
	if (drain_s > 0) {
		ev_now_update(m->loop);
		ev_timer_set(&m->drain, drain_s, 0.);
		ev_timer_start(m->loop, &m->drain);
	}
	stop_workers(m, drain_s > 0 ? WORKER_DRAIN : WORKER_TELL);
}

static void
on_stop_signal(struct ev_loop *loop, ev_signal *w, int revents)
{
	(void)loop;
	(void)revents;
	stop(w->data, w->signum == SIGINT ? "SIGINT" : "SIGTERM");
}

static void
on_reload_signal(struct ev_loop *loop, ev_signal *w, int revents)
{
	struct master *m = w->data;

	(void)loop;
	(void)revents;
	reload_ask(m->proxy.reload);
}

static void
on_asked(struct ev_loop *loop, ev_async *w, int revents)
{
	struct master *m = w->data;

	(void)loop;
	(void)revents;
	if (atomic_exchange(&m->ask_stop, false) && m->stopping == WORKER_RUNS)
		stop(m, "SHUTDOWN");
	if (m->stopping != WORKER_RUNS && m->ended == m->proxy.nworkers)
		ev_break(m->loop, EVBREAK_ALL);
}

static void
ask_stop(struct proxy *p)
{
	struct master *m = (struct master *)p;

	m->ask_stop = true;
	ev_async_send(m->loop, &m->asked);
}

/* Beside the sampling, what the web's connections may take. */
static void
on_sampler(struct ev_loop *loop, ev_timer *w, int revents)
{
	struct master *m = w->data;

	(void)loop;
	(void)revents;
	standbys_sample(m->proxy.standbys);
	if (m->web != NULL)
		web_tick(m->web);
}

static void
watch(struct master *m)
{
	ev_timer_init(&m->sampler, on_sampler, STANDBYS_STEP_S, STANDBYS_STEP_S);
	m->sampler.data = m;
	ev_timer_start(m->loop, &m->sampler);
	ev_signal_init(&m->sigterm, on_stop_signal, SIGTERM);
	ev_signal_init(&m->sigint, on_stop_signal, SIGINT);
	ev_signal_init(&m->sighup, on_reload_signal, SIGHUP);
	ev_async_init(&m->asked, on_asked);
	ev_init(&m->drain, on_drained);
	m->sigterm.data = m->sigint.data = m->sighup.data = m->asked.data = m->drain.data = m;
	ev_signal_start(m->loop, &m->sigterm);
	ev_signal_start(m->loop, &m->sigint);
	ev_signal_start(m->loop, &m->sighup);
	ev_async_start(m->loop, &m->asked);
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
	log_set_json(settings->log_json);
	process_raise_descriptors(settings);
	if ((m->proxy.limits = limits_new(err)) == NULL)
		return -1;
	limits_set(m->proxy.limits, settings);
	if ((m->proxy.pause = pause_new(err)) == NULL)
		return -1;
	if ((m->proxy.standbys = standbys_new(err)) == NULL || (m->proxy.upstreams = upstreams_new(err)) == NULL ||
	    (m->proxy.stats = stats_new(err)) == NULL || (m->proxy.authquery = authquery_new(err)) == NULL ||
	    (m->proxy.keymaker = keymaker_new(&m->proxy, err)) == NULL)
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
		worker_stop(m->proxy.workers[i], m->stopping == WORKER_RUNS ? WORKER_FAST : m->stopping);
		worker_join(m->proxy.workers[i]);
	}
	free(m->proxy.workers);
}

static int
run(struct master *m, struct err *err)
{
	if (process_seal(err) != 0 || open_keystore(m, err) != 0)
		return -1;
	/* every worker's end wakes this loop, so it is there before them */
	m->loop = ev_loop_new(EVFLAG_AUTO); /* not the default one: that would reap the processes of key providers */
	if (m->loop == NULL)
		return err_set(err, ERR_FAILED, "could not make an event loop");
	watch(m);
	if ((m->proxy.notify = notify_new(m->loop, &m->proxy, err)) == NULL)
		return -1;
	if ((m->proxy.reload = reload_new(m->loop, &m->proxy, err)) == NULL)
		return -1;
	if (start_workers(m, err) != 0 || (m->proxy.renewal = renewal_start(&m->proxy, err)) == NULL)
		return -1;
	if (m->proxy.site->settings->http_listen != NULL && (m->web = web_new(&m->proxy, err)) == NULL)
		return -1;
	m->listener = listener_new(m->loop, m->proxy.site->settings, m->proxy.limits, give, m, err);
	if (m->listener == NULL)
		return -1;
	log_info("walcrypt-proxy %s: %s, port %d%s%s", WALCRYPT_VERSION,
	         m->proxy.site->settings->listen_port == 0 ? "no TCP" : m->proxy.site->settings->listen_addr,
	         m->proxy.site->settings->listen_port, m->proxy.site->settings->unix_socket_dir == NULL ? "" : ", ",
	         m->proxy.site->settings->unix_socket_dir == NULL ? "" : m->proxy.site->settings->unix_socket_dir);
	notify_ready(m->proxy.notify, NULL);
	ev_run(m->loop, 0);
	return 0;
}

static int
finish(struct master *m, int rc)
{
	struct err err = {0};

	listener_free(m->listener);
	web_free(m->web);
	authquery_stop(m->proxy.authquery);
	keymaker_stop(m->proxy.keymaker);
	finish_workers(m);
	renewal_stop(m->proxy.renewal);
	authquery_free(m->proxy.authquery);
	keymaker_free(m->proxy.keymaker);
	reload_free(m->proxy.reload);
	notify_free(m->proxy.notify);
	if (ledger_close(m->proxy.ledger, &err) != 0) {
		log_err(LOG_ERROR, &err, NULL);
		rc = ERR_FAILED;
	}
	timelines_free(m->proxy.timelines);
	site_unref(m->proxy.site);
	limits_free(m->proxy.limits);
	standbys_free(m->proxy.standbys);
	pause_free(m->proxy.pause);
	upstreams_free(m->proxy.upstreams);
	stats_free(m->proxy.stats);
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
	puts("\nSignals: SIGTERM, SIGINT stop it (twice: at once); SIGHUP reads the configuration and the keystore again.");
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

	tunables_apply(argv);
	signal(SIGPIPE, SIG_IGN);
	if (args == NULL)
		return ERR_FAILED;
	rc = options_parse(defs, OPTIONS_ALL, argc, argv, &a, args, &nargs, &err);
	if (rc == 0 && !a.help && !a.help_config && !a.version && nargs > 0)
		rc = err_set(&err, ERR_USAGE, "unknown argument \"%s\"", args[0]);
	free(args);
	if (rc == 0 && a.help) {
		help();
		return 0;
	}
	if (rc == 0 && a.help_config) {
		settings_help(stdout);
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
	m.proxy.ask_stop = ask_stop;
	m.proxy.worker_ended = worker_ended;
	pthread_mutex_init(&m.proxy.mutex, NULL);
	registry_init(&m.proxy.registry);
	rc = run(&m, &err);
	if (rc != 0)
		log_err(LOG_FATAL, &err, NULL);
	return finish(&m, rc == 0 ? 0 : (int)err.class);
}
