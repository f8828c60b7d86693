#include "ctl/libpq_result.h"

#include <errno.h>
#include <poll.h>

#include "common/clock.h"

PGresult *
libpq_result(PGconn *conn, int timeout_ms)
{
	int64_t end_ms = clock_now_ms() + timeout_ms;
	PGresult *last = NULL, *next;

	do {
		while (PQisBusy(conn)) {
			struct pollfd on = {.fd = PQsocket(conn), .events = POLLIN};
			int64_t left = end_ms - clock_now_ms();

			if (timeout_ms > 0 && left <= 0) {
				PQclear(last);
				errno = ETIMEDOUT;
				return NULL;
			}
			poll(&on, 1, timeout_ms > 0 ? (int)left : -1);
			if (PQconsumeInput(conn) == 0)
				break;
		}
		if ((next = PQgetResult(conn)) != NULL) {
			PQclear(last);
			last = next;
		}
	} while (next != NULL);
	return last;
}
