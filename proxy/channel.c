#include "proxy/channel.h"

#include <errno.h>
#include <limits.h>
#include <openssl/err.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

void
channel_init(struct channel *c, int fd)
{
	memset(c, 0, sizeof(*c));
	c->fd = fd;
}

void
channel_close(struct channel *c)
{
	SSL_free(c->ssl);
	c->ssl = NULL;
	if (c->fd >= 0)
		close(c->fd);
	c->fd = -1;
}

int
channel_tls(struct channel *c, const struct tls *tls, struct err *err)
{
	if ((c->ssl = tls_session(tls, err)) == NULL)
		return -1;
	if (SSL_set_fd(c->ssl, c->fd) != 1)
		return err_set(err, ERR_FAILED, "could not begin TLS on a connection");
	SSL_set_accept_state(c->ssl);
	return 0;
}

/* What a TLS call that has not done its work means, in errno; 0 is the peer's orderly end. */
static int
trouble(struct channel *c, int rc)
{
	int os_errno = errno;

	c->wants_write = false;
	switch (SSL_get_error(c->ssl, rc)) {
	case SSL_ERROR_WANT_WRITE:
		c->wants_write = true;
		/* FALLTHROUGH */
	case SSL_ERROR_WANT_READ:
		errno = EAGAIN;
		return -1;
	case SSL_ERROR_ZERO_RETURN:
		return 0;
	case SSL_ERROR_SYSCALL:
		if (ERR_peek_error() == 0) {
			snprintf(c->why, sizeof(c->why), "%s", os_errno != 0 ? strerror(os_errno) : "the connection was cut");
			errno = os_errno != 0 ? os_errno : ECONNRESET;
			return -1;
		}
		/* FALLTHROUGH */
	default:
		tls_reason(c->ssl, c->why, sizeof(c->why));
		errno = EPROTO;
		return -1;
	}
}

int
channel_handshake(struct channel *c)
{
	int rc;

	ERR_clear_error();
	errno = 0;
	c->wants_write = false;
	if ((rc = SSL_do_handshake(c->ssl)) == 1) {
		c->encrypted = true;
		return 1;
	}
	if (trouble(c, rc) != 0 && errno == EAGAIN)
		return 0;
	if (c->why[0] == '\0')
		snprintf(c->why, sizeof(c->why), "the client has ended it");
	return -1;
}

ssize_t
channel_read(struct channel *c, void *to, size_t len)
{
	size_t n;
	int rc;

	if (c->ssl == NULL)
		return recv(c->fd, to, len, 0);
	ERR_clear_error();
	errno = 0;
	c->wants_write = false;
	rc = SSL_read_ex(c->ssl, to, len, &n);
	return rc == 1 ? (ssize_t)n : trouble(c, rc);
}

ssize_t
channel_write(struct channel *c, const void *from, size_t len)
{
	bool wants_write = c->wants_write;
	size_t done = 0, n;
	int rc = 1;

	if (c->ssl == NULL)
		return send(c->fd, from, len, MSG_NOSIGNAL);
	while (done < len) {
		ERR_clear_error();
		errno = 0;
		if ((rc = SSL_write_ex(c->ssl, (const char *)from + done, len - done, &n)) != 1)
			break;
		done += n;
	}
	if (rc != 1)
		rc = trouble(c, rc);
	/* its own goes first; what is left of the caller's the caller knows */
	c->wants_write = wants_write && done == 0;
	if (done == len)
		return (ssize_t)done;
	return done > 0 && (rc == 0 || errno == EAGAIN) ? (ssize_t)done : rc;
}

bool
channel_pending(const struct channel *c)
{
	return c->encrypted && SSL_pending(c->ssl) > 0;
}

void
channel_farewell(struct channel *c)
{
	if (c->encrypted) {
		ERR_clear_error();
		(void)SSL_shutdown(c->ssl);
	}
	shutdown(c->fd, SHUT_WR);
}
