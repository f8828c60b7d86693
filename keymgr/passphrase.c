#include "keymgr/passphrase.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

#include "keymgr/secretfile.h"
#include "walcrypt/secmem.h"

/* One line, without its end; what is left behind it is not looked at. */
static int
line_read(int fd, const char *what, struct passphrase *p, struct err *err)
{
	char ch = '\0';
	ssize_t n;

	p->len = 0;
	for (;;) {
		/* byte by byte: what comes after the line is not ours */
		if ((n = read(fd, &ch, 1)) < 0 && errno == EINTR)
			continue;
		if (n < 0) {
			err_os(err, errno, "could not read the passphrase from %s", what);
			return -1;
		}
		if (n == 0 || ch == '\n')
			break;
		if (p->len == PASSPHRASE_MAX)
			return err_set(err, ERR_USAGE, "the passphrase has more than %d bytes", PASSPHRASE_MAX);
		p->text[p->len++] = ch;
	}
	if (p->len > 0 && p->text[p->len - 1] == '\r')
		p->len--;
	p->text[p->len] = '\0';
	ch = '\0';
	return 0;
}

static void
say(int tty, const char *text)
{
	/* a terminal that does not take it shows no prompt: the passphrase can be typed all the same */
	if (write(tty, text, strlen(text)) < 0)
		return;
}

/* Without echo; and without signals, so that the terminal never stays like that: Ctrl-C comes as a character. */
static int
ask(int tty, const char *prompt, int timeout_ms, struct passphrase *p, struct err *err)
{
	struct pollfd line = {tty, POLLIN, 0};
	struct termios before, quiet;
	int result;

	if (tcgetattr(tty, &before) != 0)
		return err_os(err, errno, "could not ask on the terminal");
	quiet = before;
	quiet.c_lflag &= ~(tcflag_t)(ECHO | ECHONL | ISIG);
	if (tcsetattr(tty, TCSAFLUSH, &quiet) != 0)
		return err_os(err, errno, "could not switch the terminal's echo off");
	say(tty, prompt);
	/* a terminal is readable when the line is complete */
	if (poll(&line, 1, timeout_ms > 0 ? timeout_ms : -1) == 0)
		result = err_set(err, ERR_UNREACHABLE, "no passphrase was typed in time");
	else
		result = line_read(tty, "the terminal", p, err);
	tcsetattr(tty, TCSAFLUSH, &before);
	say(tty, "\n");
	if (result == 0 && (memchr(p->text, 3, p->len) != NULL || memchr(p->text, 28, p->len) != NULL))
		return err_set(err, ERR_USAGE, "interrupted");
	return result;
}

static int
from_terminal(const struct passphrase_source *s, bool fresh, struct passphrase *p, struct err *err)
{
	struct passphrase *again = NULL;
	int tty = s->tty > 0 ? s->tty : open("/dev/tty", O_RDWR | O_NOCTTY | O_CLOEXEC), result = -1;

	if (tty < 0) {
		err_set(err, ERR_USAGE, "there is no terminal to ask for the passphrase on");
		return err_hint(err, "Give --passphrase-file FILE or --passphrase-fd NUMBER.");
	}
	if (ask(tty, s->prompt, s->timeout_ms, p, err) != 0)
		goto done;
	if (!fresh)
		result = 0;
	else if ((again = secmem_alloc(sizeof(*again), err)) != NULL &&
	         ask(tty, "Once more: ", s->timeout_ms, again, err) == 0) {
		if (again->len == p->len && secmem_equal(again->text, p->text, p->len))
			result = 0;
		else
			err_set(err, ERR_USAGE, "the two passphrases differ");
	}
done:
	secmem_free(again);
	if (tty != s->tty)
		close(tty);
	return result;
}

static int
from_file(const char *path, struct passphrase *p, struct err *err)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC), result = -1;
	char what[300];

	if (fd < 0)
		return err_os(err, errno, "could not open passphrase file \"%s\"", path);
	snprintf(what, sizeof(what), "\"%s\"", path);
	if (secretfile_check(path, "passphrase file", fd, err) == 0)
		result = line_read(fd, what, p, err);
	close(fd);
	return result;
}

struct passphrase *
passphrase_get(const struct passphrase_source *s, bool fresh, struct err *err)
{
	struct passphrase *p = secmem_alloc(sizeof(*p), err);
	int result;

	if (p == NULL)
		return NULL;
	result = s->file != NULL ? from_file(s->file, p, err)
	         : s->fd >= 0    ? line_read(s->fd, "the descriptor", p, err)
	                         : from_terminal(s, fresh, p, err);
	if (result == 0 && p->len == 0)
		result = err_set(err, ERR_USAGE, "the passphrase is empty");
	if (result == 0 && fresh && p->len < PASSPHRASE_NEW_MIN)
		result = err_set(err, ERR_USAGE, "a new passphrase must have at least %d bytes", PASSPHRASE_NEW_MIN);
	if (result == 0)
		return p;
	passphrase_free(p);
	return NULL;
}

void
passphrase_free(struct passphrase *p)
{
	secmem_free(p);
}
