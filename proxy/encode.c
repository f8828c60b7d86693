#include "proxy/encode.h"

#include <string.h>

#include "replication/message.h"

static int
put_error(struct buffer *out, char type, const PGresult *res, struct err *err)
{
	/* in the order in which the server sends them */
	static const char fields[] = {
	    PG_DIAG_SEVERITY,           PG_DIAG_SEVERITY_NONLOCALIZED, PG_DIAG_SQLSTATE,       PG_DIAG_MESSAGE_PRIMARY,
	    PG_DIAG_MESSAGE_DETAIL,     PG_DIAG_MESSAGE_HINT,          PG_DIAG_CONTEXT,        PG_DIAG_SCHEMA_NAME,
	    PG_DIAG_TABLE_NAME,         PG_DIAG_COLUMN_NAME,           PG_DIAG_DATATYPE_NAME,  PG_DIAG_CONSTRAINT_NAME,
	    PG_DIAG_STATEMENT_POSITION, PG_DIAG_INTERNAL_POSITION,     PG_DIAG_INTERNAL_QUERY, PG_DIAG_SOURCE_FILE,
	    PG_DIAG_SOURCE_LINE,        PG_DIAG_SOURCE_FUNCTION};
	size_t begun = message_begin(out, type);

	for (size_t i = 0; i < sizeof(fields); i++) {
		const char *value = PQresultErrorField(res, fields[i]);

		if (value == NULL)
			continue;
		buffer_put_u8(out, (uint8_t)fields[i]);
		buffer_put_str(out, value);
	}
	buffer_put_u8(out, 0);
	return message_end(out, begun, err);
}

static int
put_rows(struct buffer *out, const PGresult *res, struct err *err)
{
	int nfields = PQnfields(res);
	size_t begun = message_begin(out, 'T');

	buffer_put_u16(out, (uint16_t)nfields);
	for (int i = 0; i < nfields; i++) {
		buffer_put_str(out, PQfname(res, i));
		buffer_put_u32(out, PQftable(res, i));
		buffer_put_u16(out, (uint16_t)PQftablecol(res, i));
		buffer_put_u32(out, PQftype(res, i));
		buffer_put_u16(out, (uint16_t)PQfsize(res, i));
		buffer_put_u32(out, (uint32_t)PQfmod(res, i));
		buffer_put_u16(out, (uint16_t)PQfformat(res, i));
	}
	if (message_end(out, begun, err) != 0)
		return -1;
	for (int row = 0; row < PQntuples(res); row++) {
		begun = message_begin(out, 'D');
		buffer_put_u16(out, (uint16_t)nfields);
		for (int i = 0; i < nfields; i++) {
			int len = PQgetlength(res, row, i);

			if (PQgetisnull(res, row, i)) {
				buffer_put_u32(out, UINT32_MAX);
				continue;
			}
			buffer_put_u32(out, (uint32_t)len);
			buffer_put(out, PQgetvalue(res, row, i), (size_t)len);
		}
		if (message_end(out, begun, err) != 0)
			return -1;
	}
	return 0;
}

int
encode_result(struct buffer *out, const PGresult *res, struct err *err)
{
	switch (PQresultStatus(res)) {
	case PGRES_TUPLES_OK:
		if (put_rows(out, res, err) != 0)
			return -1;
		return message_command_complete(out, PQcmdStatus((PGresult *)res), err);
	case PGRES_COMMAND_OK:
		return message_command_complete(out, PQcmdStatus((PGresult *)res), err);
	case PGRES_EMPTY_QUERY:
		return message_empty_query(out, err);
	case PGRES_COPY_OUT:
		return message_copy_out(out, err);
	case PGRES_COPY_IN:
		return message_copy_in(out, err);
	case PGRES_COPY_BOTH:
		return message_copy_both(out, err);
	case PGRES_FATAL_ERROR:
	case PGRES_NONFATAL_ERROR:
		return put_error(out, 'E', res, err);
	default:
		err_set(err, ERR_FAILED, "the upstream's answer is of a kind that cannot be passed on: %s",
		        PQresStatus(PQresultStatus(res)));
		return err_sqlstate(err, "08P01");
	}
}

int
encode_notice(struct buffer *out, const PGresult *res, struct err *err)
{
	return put_error(out, 'N', res, err);
}

int
encode_parameters(struct buffer *out, const PGconn *conn, struct err *err)
{
	static const char *const names[] = {"application_name",
	                                    "client_encoding",
	                                    "DateStyle",
	                                    "default_transaction_read_only",
	                                    "in_hot_standby",
	                                    "integer_datetimes",
	                                    "IntervalStyle",
	                                    "is_superuser",
	                                    "scram_iterations",
	                                    "search_path",
	                                    "server_encoding",
	                                    "server_version",
	                                    "session_authorization",
	                                    "standard_conforming_strings",
	                                    "TimeZone"};

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		const char *value = PQparameterStatus(conn, names[i]);

		if (value != NULL && message_parameter_status(out, names[i], value, err) != 0)
			return -1;
	}
	return 0;
}

int
encode_is_own_error(const PGresult *res)
{
	ExecStatusType status = PQresultStatus(res);

	return (status == PGRES_FATAL_ERROR || status == PGRES_BAD_RESPONSE) &&
	       PQresultErrorField(res, PG_DIAG_SQLSTATE) == NULL;
}
