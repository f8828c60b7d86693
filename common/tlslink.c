#include "common/tlslink.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>

#include "common/clock.h"
#include "common/curl.h"

struct tlslink {
	const struct http_peer *peer;
	CURL *curl;
	curl_socket_t fd;
	char why[CURL_ERROR_SIZE];
};

struct tlslink *
tlslink_open(const struct http_peer *peer, struct err *err)
{
	int64_t left = peer->deadline_ms - clock_now_ms();
	struct tlslink *l = calloc(1, sizeof(*l));
	CURLcode rc;

	if (l == NULL) {
		err_nomem(err);
		return NULL;
	}
	l->peer = peer;
	if ((l->curl = curl_open(peer, "https", "", l->why, err)) == NULL)
		goto fail;
	curl_limit(l->curl, left > 0 ? left : 1);
	rc = curl_easy_setopt(l->curl, CURLOPT_CONNECT_ONLY, 1L);
	if (rc == CURLE_OK)
		rc = curl_easy_setopt(l->curl, CURLOPT_SSL_ENABLE_ALPN, 0L); /* it is not HTTP that is spoken */
	if (rc == CURLE_OK)
		rc = curl_easy_perform(l->curl);
	if (rc == CURLE_OK)
		rc = curl_easy_getinfo(l->curl, CURLINFO_ACTIVESOCKET, &l->fd);
	if (rc == CURLE_OK) {
		fcntl(l->fd, F_SETFD, FD_CLOEXEC); /* it is not for programs that are started meanwhile */
		return l;
	}
	curl_explain(peer, rc, l->why, err);
fail:
	tlslink_close(l);
	return NULL;
}

void
tlslink_peer(struct tlslink *l, const struct http_peer *peer)
{
	l->peer = peer;
}

/* rc of a send or receive that moved nothing: wait, if that is what it takes. */
static int
go_on(struct tlslink *l, CURLcode rc, short events, struct err *err)
{
	int64_t left = l->peer->deadline_ms - clock_now_ms();
	struct pollfd fd = {l->fd, events, 0};

	if (rc != CURLE_OK && rc != CURLE_AGAIN)
		return curl_explain(l->peer, rc, l->why, err);
	/* a receive that succeeds with nothing is the end of the connection */
	if (rc == CURLE_OK && events == POLLIN)
		return err_set(err, ERR_UNREACHABLE, "\"%s\" closed the connection", l->peer->host_port);
	if (left <= 0 || (poll(&fd, 1, (int)left) == 0))
		return curl_explain(l->peer, CURLE_OPERATION_TIMEDOUT, l->why, err);
	return 0;
}

int
tlslink_send(struct tlslink *l, const void *data, size_t len, struct err *err)
{
	const char *at = data;

	while (len > 0) {
		size_t n = 0;
		CURLcode rc = curl_easy_send(l->curl, at, len, &n);

		if (n == 0 && go_on(l, rc, POLLOUT, err) != 0)
			return -1;
		at += n;
		len -= n;
	}
	return 0;
}

int
tlslink_recv(struct tlslink *l, void *data, size_t len, struct err *err)
{
	char *at = data;

	while (len > 0) {
		size_t n = 0;
		CURLcode rc = curl_easy_recv(l->curl, at, len, &n);

		if (n == 0 && go_on(l, rc, POLLIN, err) != 0)
			return -1;
		at += n;
		len -= n;
	}
	return 0;
}

void
tlslink_close(struct tlslink *l)
{
	if (l != NULL)
		curl_easy_cleanup(l->curl);
	free(l);
}
