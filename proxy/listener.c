#include "proxy/listener.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/log.h"

#define BACKLOG 128
#define MAX_ADDRESSES 8 /* localhost may have several addresses */

struct door {
	ev_io accept;
	struct listener *listener;
	char name[SETTINGS_NAME_MAX + 1]; /* of the [listen NAME] section */
};

struct listener {
	struct ev_loop *loop;
	void (*give)(void *arg, int fd, const struct peer *peer);
	void *arg;
	struct limits *limits;
	bool trust;
	int keepalive_s, user_timeout_ms;
	size_t n;
	struct door *doors;
	ev_timer pause; /* out of descriptors: accept again later, not at once and for ever */
	char unix_path[sizeof(((struct sockaddr_un *)0)->sun_path)];
};

static void
option(int fd, int level, int name, int value)
{
	/* only makes things faster or found out sooner */
	if (setsockopt(fd, level, name, &value, sizeof(value)) != 0)
		log_debug("setsockopt %d: %s", name, strerror(errno));
}

static void
on_pause_over(struct ev_loop *loop, ev_timer *w, int revents)
{
	struct listener *l = w->data;

	(void)revents;
	for (size_t i = 0; i < l->n; i++)
		ev_io_start(loop, &l->doors[i].accept);
}

static void
on_accept(struct ev_loop *loop, ev_io *w, int revents)
{
	const struct door *door = w->data;
	struct listener *l = door->listener;
	struct peer peer = {0};
	struct sockaddr *addr = (struct sockaddr *)&peer.addr;
	socklen_t len = sizeof(peer.addr);
	int fd = accept4(w->fd, addr, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);
	const char *why;
	bool first;

	(void)revents;
	if (fd < 0) {
		if (errno == EAGAIN || errno == EINTR || errno == ECONNABORTED)
			return;
		log_error("could not accept a connection: %s", strerror(errno));
		for (size_t i = 0; i < l->n; i++)
			ev_io_stop(loop, &l->doors[i].accept);
		ev_timer_set(&l->pause, 1., 0.);
		ev_timer_start(loop, &l->pause);
		return;
	}
	/* the kernel leaves it empty for a nameless Unix socket */
	if (len < sizeof(addr->sa_family))
		addr->sa_family = AF_UNIX;
	address_text(addr, peer.text, sizeof(peer.text));
	memcpy(peer.door, door->name, sizeof(peer.door));
	/* trust is for this machine; a packet filter that sends others here changes nothing about that */
	if (l->trust && !address_is_loopback(addr)) {
		log_warning("a connection from %s is refused: auth_type is trust", peer.text);
		close(fd);
		return;
	}
	if ((why = limits_enter(l->limits, &peer, &first)) != NULL) {
		if (first)
			log_warning("connections from %s are refused: %s", peer.text, why);
		close(fd);
		return;
	}
	if (addr->sa_family != AF_UNIX) {
		option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
		option(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
		if (l->keepalive_s > 0) {
			option(fd, IPPROTO_TCP, TCP_KEEPIDLE, l->keepalive_s);
			option(fd, IPPROTO_TCP, TCP_KEEPINTVL, l->keepalive_s / 6 + 1);
			option(fd, IPPROTO_TCP, TCP_KEEPCNT, 6);
		}
		if (l->user_timeout_ms > 0)
			option(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, l->user_timeout_ms);
	}
	l->give(l->arg, fd, &peer);
}

static int
add(struct listener *l, int fd, const char *name)
{
	struct door *door = &l->doors[l->n++];

	door->listener = l;
	snprintf(door->name, sizeof(door->name), "%s", name);
	ev_io_init(&door->accept, on_accept, fd, EV_READ);
	door->accept.data = door;
	ev_io_start(l->loop, &door->accept);
	return 0;
}

static int
listen_tcp(struct listener *l, const char *name, const char *addr, int number, struct err *err)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE}, *list = NULL;
	bool all = strcmp(addr, "*") == 0;
	char port[16];
	size_t n = 0;
	int rc;

	snprintf(port, sizeof(port), "%d", number);
	if ((rc = getaddrinfo(all ? NULL : addr, port, &hints, &list)) != 0) {
		err_set(err, ERR_USAGE, "could not resolve listen_addr \"%s\": %s", addr, gai_strerror(rc));
		return err_hint(err, "Give a numeric address, as 127.0.0.1.");
	}
	rc = 0;
	for (struct addrinfo *a = list; a != NULL && rc == 0 && n < MAX_ADDRESSES; a = a->ai_next) {
		int fd, on = 1;

		if (l->trust && !address_is_loopback(a->ai_addr)) {
			err_set(err, ERR_REFUSED, "listen_addr \"%s\" is not loopback, and auth_type = trust lets anybody in",
			        addr);
			rc = err_hint(err, "Listen on 127.0.0.1, ::1 or a Unix socket.");
			break;
		}
		fd = socket(a->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
		if (fd < 0 && a->ai_family == AF_INET6 && (errno == EAFNOSUPPORT || errno == EADDRNOTAVAIL))
			continue;
		if (fd >= 0) {
			option(fd, SOL_SOCKET, SO_REUSEADDR, on);
			if (a->ai_family == AF_INET6)
				option(fd, IPPROTO_IPV6, IPV6_V6ONLY, on);
		}
		if (fd < 0 || bind(fd, a->ai_addr, a->ai_addrlen) != 0 || listen(fd, BACKLOG) != 0) {
			rc = err_os(err, errno, "could not listen on %s, port %s", addr, port);
			if (err->os_errno == EADDRINUSE)
				err_hint(err, "Is another walcrypt-proxy running? Otherwise choose another listen_port.");
			if (fd >= 0)
				close(fd);
			break;
		}
		rc = add(l, fd, name);
		n++;
	}
	freeaddrinfo(list);
	return rc;
}

/* Is somebody listening on the socket that lies there? Else a crash has left it. */
static bool
answers(const struct sockaddr_un *addr)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	bool yes = fd >= 0 && connect(fd, (const struct sockaddr *)addr, sizeof(*addr)) == 0;

	if (fd >= 0)
		close(fd);
	return yes;
}

static int
listen_unix(struct listener *l, const struct settings *settings, struct err *err)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int fd, n;

	n = snprintf(addr.sun_path, sizeof(addr.sun_path), "%s/.s.PGSQL.%d", settings->unix_socket_dir,
	             settings->listen_port == 0 ? SETTINGS_SOCKET_PORT : settings->listen_port);
	if (n < 0 || (size_t)n >= sizeof(addr.sun_path)) {
		err_set(err, ERR_USAGE, "unix_socket_dir \"%s\" is too long", settings->unix_socket_dir);
		return err_hint(err, "The whole name of a socket has at most %zu bytes.", sizeof(addr.sun_path) - 1);
	}
	if (answers(&addr)) {
		err_set(err, ERR_REFUSED, "another process listens on \"%s\"", addr.sun_path);
		return err_hint(err,
		                "Is another walcrypt-proxy running? Otherwise choose another listen_port or unix_socket_dir.");
	}
	unlink(addr.sun_path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0 || bind(fd, (struct sockaddr *)&addr, sizeof(addr)) != 0 || chmod(addr.sun_path, 0777) != 0 ||
	    listen(fd, BACKLOG) != 0) {
		err_os(err, errno, "could not listen on \"%s\"", addr.sun_path);
		if (fd >= 0)
			close(fd);
		return err_hint(err, "unix_socket_dir must be a folder that this user may write to.");
	}
	memcpy(l->unix_path, addr.sun_path, sizeof(l->unix_path));
	return add(l, fd, "");
}

static int
listen_all(struct listener *l, const struct settings *settings, struct err *err)
{
	if (settings->listen_port != 0 && listen_tcp(l, "", settings->listen_addr, settings->listen_port, err) != 0)
		return -1;
	for (size_t i = 0; i < settings->nlistens; i++)
		if (listen_tcp(l, settings->listens[i].name, settings->listens[i].addr, settings->listens[i].port, err) != 0)
			return -1;
	return settings->unix_socket_dir != NULL ? listen_unix(l, settings, err) : 0;
}

struct listener *
listener_new(struct ev_loop *loop, const struct settings *settings, struct limits *limits,
             void (*give)(void *arg, int fd, const struct peer *peer), void *arg, struct err *err)
{
	struct listener *l = calloc(1, sizeof(*l));

	if (l == NULL || (l->doors = calloc(1 + (1 + settings->nlistens) * MAX_ADDRESSES, sizeof(*l->doors))) == NULL) {
		err_nomem(err);
		free(l);
		return NULL;
	}
	l->limits = limits;
	l->trust = settings->auth == SETTINGS_TRUST;
	l->loop = loop;
	l->give = give;
	l->arg = arg;
	l->keepalive_s = settings->tcp_keepalive_s;
	l->user_timeout_ms = settings->tcp_user_timeout_ms;
	ev_init(&l->pause, on_pause_over);
	l->pause.data = l;
	if (listen_all(l, settings, err) != 0) {
		listener_free(l);
		return NULL;
	}
	return l;
}

void
listener_free(struct listener *l)
{
	if (l == NULL)
		return;
	ev_timer_stop(l->loop, &l->pause);
	for (size_t i = 0; i < l->n; i++) {
		ev_io_stop(l->loop, &l->doors[i].accept);
		close(l->doors[i].accept.fd);
	}
	if (l->unix_path[0] != '\0')
		unlink(l->unix_path);
	free(l->doors);
	free(l);
}
