#include "proxy/listener.h"

#include <arpa/inet.h>
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
#define MAX_SOCKETS 9 /* localhost may have several addresses */

struct listener {
	struct ev_loop *loop;
	void (*give)(void *arg, int fd, const char *peer);
	void *arg;
	int keepalive_s, user_timeout_ms;
	size_t n;
	ev_io accepts[MAX_SOCKETS];
	ev_timer pause; /* out of descriptors: accept again later, not at once and for ever */
	char unix_path[sizeof(((struct sockaddr_un *)0)->sun_path)];
};

static bool
is_loopback(const struct sockaddr *addr)
{
	if (addr->sa_family == AF_INET)
		return ntohl(((const struct sockaddr_in *)(const void *)addr)->sin_addr.s_addr) >> 24 == 127;
	if (addr->sa_family == AF_INET6)
		return IN6_IS_ADDR_LOOPBACK(&((const struct sockaddr_in6 *)(const void *)addr)->sin6_addr);
	return addr->sa_family == AF_UNIX;
}

static void
peer_text(const struct sockaddr *addr, char *out, size_t len)
{
	char host[INET6_ADDRSTRLEN] = "";

	if (addr->sa_family == AF_INET) {
		const struct sockaddr_in *in = (const void *)addr;

		inet_ntop(AF_INET, &in->sin_addr, host, sizeof(host));
		snprintf(out, len, "%s:%u", host, ntohs(in->sin_port));
	} else if (addr->sa_family == AF_INET6) {
		const struct sockaddr_in6 *in = (const void *)addr;

		inet_ntop(AF_INET6, &in->sin6_addr, host, sizeof(host));
		snprintf(out, len, "[%s]:%u", host, ntohs(in->sin6_port));
	} else
		snprintf(out, len, "local");
}

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
		ev_io_start(loop, &l->accepts[i]);
}

static void
on_accept(struct ev_loop *loop, ev_io *w, int revents)
{
	struct listener *l = w->data;
	struct sockaddr_storage addr = {0};
	socklen_t len = sizeof(addr);
	int fd = accept4(w->fd, (struct sockaddr *)&addr, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);
	char peer[80];

	(void)revents;
	if (fd < 0) {
		if (errno == EAGAIN || errno == EINTR || errno == ECONNABORTED)
			return;
		log_error("could not accept a connection: %s", strerror(errno));
		for (size_t i = 0; i < l->n; i++)
			ev_io_stop(loop, &l->accepts[i]);
		ev_timer_set(&l->pause, 1., 0.);
		ev_timer_start(loop, &l->pause);
		return;
	}
	peer_text((struct sockaddr *)&addr, peer, sizeof(peer));
	if (addr.ss_family != AF_UNIX) {
		/* trust is for this machine; a packet filter that sends others here changes nothing about that */
		if (!is_loopback((struct sockaddr *)&addr)) {
			log_warning("a connection from %s is refused: auth_type is trust", peer);
			close(fd);
			return;
		}
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
	l->give(l->arg, fd, peer);
}

static int
add(struct listener *l, int fd)
{
	ev_io *w = &l->accepts[l->n++];

	ev_io_init(w, on_accept, fd, EV_READ);
	w->data = l;
	ev_io_start(l->loop, w);
	return 0;
}

static int
listen_tcp(struct listener *l, const struct settings *settings, struct err *err)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE}, *list = NULL;
	char port[8];
	int rc;

	snprintf(port, sizeof(port), "%d", settings->listen_port);
	if ((rc = getaddrinfo(settings->listen_addr, port, &hints, &list)) != 0) {
		err_set(err, ERR_USAGE, "could not resolve listen_addr \"%s\": %s", settings->listen_addr, gai_strerror(rc));
		return err_hint(err, "Give a numeric address, as 127.0.0.1.");
	}
	rc = 0;
	for (struct addrinfo *a = list; a != NULL && rc == 0 && l->n + 1 < MAX_SOCKETS; a = a->ai_next) {
		int fd, on = 1;

		if (!is_loopback(a->ai_addr)) {
			err_set(err, ERR_REFUSED, "listen_addr \"%s\" is not loopback, and auth_type = trust lets anybody in",
			        settings->listen_addr);
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
			rc = err_os(err, errno, "could not listen on %s, port %s", settings->listen_addr, port);
			if (err->os_errno == EADDRINUSE)
				err_hint(err, "Is another walcrypt-proxy running? Otherwise choose another listen_port.");
			if (fd >= 0)
				close(fd);
			break;
		}
		rc = add(l, fd);
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
	             settings->listen_port == 0 ? 6434 : settings->listen_port);
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
	return add(l, fd);
}

struct listener *
listener_new(struct ev_loop *loop, const struct settings *settings, void (*give)(void *arg, int fd, const char *peer),
             void *arg, struct err *err)
{
	struct listener *l = calloc(1, sizeof(*l));

	if (l == NULL) {
		err_nomem(err);
		return NULL;
	}
	l->loop = loop;
	l->give = give;
	l->arg = arg;
	l->keepalive_s = settings->tcp_keepalive_s;
	l->user_timeout_ms = settings->tcp_user_timeout_ms;
	ev_init(&l->pause, on_pause_over);
	l->pause.data = l;
	if ((settings->listen_port != 0 && listen_tcp(l, settings, err) != 0) ||
	    (settings->unix_socket_dir != NULL && listen_unix(l, settings, err) != 0)) {
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
		ev_io_stop(l->loop, &l->accepts[i]);
		close(l->accepts[i].fd);
	}
	if (l->unix_path[0] != '\0')
		unlink(l->unix_path);
	free(l);
}
