#include "common/curl.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/wiping.h"

static CURLcode state;

static void
set_up(void)
{
	state = curl_global_init_mem(CURL_GLOBAL_DEFAULT, malloc, wiping_free, wiping_realloc, strdup, calloc);
}

/* libcurl asks this about once a second: not 0 ends the transfer. */
static int
is_to_stop(void *arg, curl_off_t a, curl_off_t b, curl_off_t c, curl_off_t d)
{
	const struct http_peer *peer = arg;

	(void)a;
	(void)b;
	(void)c;
	(void)d;
	return peer->stop != NULL && *peer->stop;
}

CURL *
curl_open(const struct http_peer *peer, const char *scheme, const char *path, char *why, struct err *err)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	size_t room = strlen(scheme) + strlen(peer->host_port) + strlen(path) + 16;
	CURL *curl = NULL;
	char *url = NULL;
	long failed;

	why[0] = '\0';
	pthread_once(&once, set_up);
	if (state != CURLE_OK) {
		err_set(err, ERR_FAILED, "could not set up libcurl");
		return NULL;
	}
	if ((curl = curl_easy_init()) == NULL || (url = malloc(room)) == NULL) {
		curl_easy_cleanup(curl);
		err_nomem(err);
		return NULL;
	}
	snprintf(url, room, "%s://%s%s", scheme, peer->host_port, path);
	/* the return values are summed up: each is 0 unless memory ran out or the library is another one */
	failed = (long)curl_easy_setopt(curl, CURLOPT_URL, url);
	failed |= (long)curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, scheme);
	failed |= (long)curl_easy_setopt(curl, CURLOPT_PATH_AS_IS, 1L);
	failed |= (long)curl_easy_setopt(curl, CURLOPT_PROXY, "");
	failed |= (long)curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
	failed |= (long)curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, why);
	failed |= (long)curl_easy_setopt(curl, CURLOPT_NOPROGRESS, 0L);
	failed |= (long)curl_easy_setopt(curl, CURLOPT_XFERINFOFUNCTION, is_to_stop);
	failed |= (long)curl_easy_setopt(curl, CURLOPT_XFERINFODATA, peer);
	failed |= (long)curl_easy_setopt(curl, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
	if (peer->ca_file != NULL) {
		failed |= (long)curl_easy_setopt(curl, CURLOPT_CAINFO, peer->ca_file);
		failed |= (long)curl_easy_setopt(curl, CURLOPT_CAPATH, NULL);
	}
	if (peer->cert_file != NULL) {
		failed |= (long)curl_easy_setopt(curl, CURLOPT_SSLCERT, peer->cert_file);
		failed |=
		    (long)curl_easy_setopt(curl, CURLOPT_SSLKEY, peer->key_file != NULL ? peer->key_file : peer->cert_file);
	}
	free(url);
	if (failed == 0)
		return curl;
	curl_easy_cleanup(curl);
	err_set(err, ERR_FAILED, "could not set up libcurl");
	return NULL;
}

void
curl_limit(CURL *curl, int64_t left_ms)
{
	curl_easy_setopt(curl, CURLOPT_TIMEOUT_MS, (long)left_ms);
	curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT_MS, (long)(left_ms < CURL_CONNECT_MS ? left_ms : CURL_CONNECT_MS));
}

int
curl_explain(const struct http_peer *peer, CURLcode rc, const char *why, struct err *err)
{
	if (why[0] == '\0')
		why = curl_easy_strerror(rc);
	switch (rc) {
	case CURLE_PEER_FAILED_VERIFICATION:
	case CURLE_SSL_ISSUER_ERROR:
		err_set(err, ERR_UNREACHABLE, "the certificate of \"%s\" is not trusted", peer->host_port);
		err_detail(err, "%s", why);
		return err_hint(err, "ca_file names the certificate of the authority that signed it; the host must be the one "
		                     "that it was made for.");
	case CURLE_SSL_CACERT_BADFILE:
		err_set(err, ERR_USAGE, "could not read the certificate authority's file \"%s\"", peer->ca_file);
		return err_detail(err, "%s", why);
	case CURLE_SSL_CERTPROBLEM:
		err_set(err, ERR_USAGE, "could not use the client certificate \"%s\"", peer->cert_file);
		return err_detail(err, "%s", why);
	case CURLE_ABORTED_BY_CALLBACK:
		return err_set(err, ERR_UNREACHABLE, "\"%s\" was not waited for", peer->host_port);
	case CURLE_OPERATION_TIMEDOUT:
		return err_set(err, ERR_UNREACHABLE, "\"%s\" did not answer in time", peer->host_port);
	default:
		err_set(err, ERR_UNREACHABLE, "could not reach \"%s\"", peer->host_port);
		return err_detail(err, "%s", why);
	}
}
