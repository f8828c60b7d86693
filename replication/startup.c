#include "replication/startup.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "replication/buffer.h"

/* source: src/include/libpq/pqcomm.h */
#define CANCEL_CODE STARTUP_PROTOCOL(1234, 5678)
#define SSL_CODE STARTUP_PROTOCOL(1234, 5679)
#define GSS_CODE STARTUP_PROTOCOL(1234, 5680)

bool
startup_is_tls(uint8_t first)
{
	return first == 0x16; /* a TLS handshake record; as a packet's length it would be above every cap */
}

void
startup_free(struct startup *s)
{
	free(s->text);
	memset(s, 0, sizeof(*s));
}

static int
malformed(struct err *err, const char *what)
{
	err_set(err, ERR_FAILED, "invalid startup packet: %s", what);
	return err_sqlstate(err, "08P01");
}

static int
parse_cancel(const uint8_t *data, size_t len, struct startup *s, struct err *err)
{
	if (len < 9 || len - 8 > sizeof(s->cancel_key))
		return malformed(err, "cancel request of wrong length");
	s->kind = STARTUP_CANCEL;
	s->cancel_pid = get_u32(data + 4);
	s->cancel_key_len = len - 8;
	memcpy(s->cancel_key, data + 8, s->cancel_key_len);
	return 0;
}

/* As the server's parse_bool: unique prefixes of the words, any case. */
static int
parse_bool(const char *value, bool *result)
{
	static const struct {
		const char *word;
		size_t least;
		bool result;
	} words[] = {{"true", 1, true}, {"false", 1, false}, {"yes", 1, true}, {"no", 1, false},
	             {"on", 2, true},   {"off", 2, false},   {"1", 1, true},   {"0", 1, false}};
	size_t len = strlen(value);

	for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
		if (len >= words[i].least && len <= strlen(words[i].word) && strncasecmp(value, words[i].word, len) == 0) {
			*result = words[i].result;
			return 0;
		}
	return -1;
}

static int
parse_replication(struct startup *s, const char *value, struct err *err)
{
	bool on;

	if (strcmp(value, "database") == 0) {
		s->replication = STARTUP_REPLICATION_DATABASE;
		return 0;
	}
	if (parse_bool(value, &on) != 0) {
		err_set(err, ERR_FAILED, "invalid value for parameter \"replication\": \"%.64s\"", value);
		err_hint(err, "Valid values are: \"false\", 0, \"true\", 1, \"database\".");
		return err_sqlstate(err, "22023");
	}
	s->replication = on ? STARTUP_REPLICATION_PHYSICAL : STARTUP_REPLICATION_NONE;
	return 0;
}

static int
take_param(struct startup *s, const char *name, const char *value, struct err *err)
{
	if (s->nparams == STARTUP_MAX_PARAMS)
		return malformed(err, "too many parameters");
	s->params[s->nparams].name = name;
	s->params[s->nparams].value = value;
	s->nparams++;
	if (strcmp(name, "user") == 0)
		s->user = value;
	else if (strcmp(name, "database") == 0)
		s->database = value;
	else if (strcmp(name, "application_name") == 0)
		s->application_name = value;
	else if (strcmp(name, "options") == 0)
		s->options = value;
	else if (strcmp(name, "replication") == 0)
		return parse_replication(s, value, err);
	else if (strncmp(name, "_pq_.", 5) == 0)
		s->unknown[s->nunknown++] = name;
	return 0;
}

static int
parse_session(const uint8_t *data, size_t len, struct startup *s, struct err *err)
{
	const char *p, *end;

	if ((s->text = malloc(len + 1)) == NULL)
		return err_nomem(err);
	memcpy(s->text, data, len);
	s->text[len] = '\0';
	s->application_name = "";
	for (p = s->text, end = p + len; p < end && *p != '\0';) {
		const char *name = p, *value = p + strlen(p) + 1;

		if (value >= end)
			return malformed(err, "a parameter without a value");
		p = value + strlen(value) + 1;
		if (p > end)
			return malformed(err, "no terminator");
		if (take_param(s, name, value, err) != 0)
			return -1;
	}
	/* the terminator is the packet's last byte */
	if (p != end - 1)
		return malformed(err, "no terminator as the last byte");
	if (s->user == NULL || *s->user == '\0') {
		err_set(err, ERR_FAILED, "no PostgreSQL user name specified in startup packet");
		return err_sqlstate(err, "28000");
	}
	return 0;
}

int
startup_parse(const uint8_t *data, size_t len, struct startup *s, struct err *err)
{
	uint32_t code;

	memset(s, 0, sizeof(*s));
	if (len < 4)
		return malformed(err, "too short");
	code = get_u32(data);
	if (code == CANCEL_CODE)
		return parse_cancel(data, len, s, err);
	if (code == SSL_CODE || code == GSS_CODE) {
		if (len != 4)
			return malformed(err, "encryption request of wrong length");
		s->kind = code == SSL_CODE ? STARTUP_SSL : STARTUP_GSS;
		return 0;
	}
	if (code >> 16 != 3) {
		err_set(err, ERR_FAILED, "unsupported frontend protocol %u.%u: this proxy supports 3.0 to 3.%u",
		        (unsigned)(code >> 16), (unsigned)(code & 0xFFFF), (unsigned)STARTUP_NEWEST_MINOR);
		return err_sqlstate(err, "0A000");
	}
	s->kind = STARTUP_SESSION;
	s->minor = (uint16_t)code;
	if (parse_session(data + 4, len - 4, s, err) != 0) {
		startup_free(s);
		return -1;
	}
	return 0;
}
