#include "common/coprocess.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "common/clock.h"

extern char **environ;

static void
close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

/* In the child: only async-signal-safe calls, because the parent may have threads. */
static void
child_run(const char *const *argv, char *const *envp, int in, int out, int err, const sigset_t *mask)
{
	setpgid(0, 0);
	signal(SIGPIPE, SIG_DFL);
	sigprocmask(SIG_SETMASK, mask, NULL);
	if (dup2(in, STDIN_FILENO) >= 0 && dup2(out, STDOUT_FILENO) >= 0 && dup2(err, STDERR_FILENO) >= 0)
		execvpe(argv[0], (char *const *)(uintptr_t)argv, envp != NULL ? envp : environ);
	_exit(127);
}

int
coprocess_start(struct coprocess *p, const char *const *argv, char *const *envp, char *buf, size_t size,
                struct err *err)
{
	int talk[2] = {-1, -1}, out[2] = {-1, -1}, errs[2] = {-1, -1};
	sigset_t mask, all;
	pid_t pid = -1;

	*p = (struct coprocess){.talk = -1, .listen = -1, .err = -1, .buf = buf, .size = size};
	/* a socket for its stdin: writing to it when it has ended must not raise SIGPIPE */
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, talk) != 0 || pipe2(out, O_CLOEXEC) != 0 ||
	    pipe2(errs, O_CLOEXEC) != 0) {
		err_os(err, errno, "could not create a pipe");
		goto done;
	}
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &mask);
	if ((pid = fork()) == 0)
		child_run(argv, envp, talk[1], out[1], errs[1], &mask);
	pthread_sigmask(SIG_SETMASK, &mask, NULL);
	if (pid < 0) {
		err_os(err, errno, "could not fork");
		goto done;
	}
	setpgid(pid, pid); /* here too, so that it can be killed as a group at once */
	p->pid = pid;
	p->talk = talk[0];
	p->listen = out[0];
	p->err = errs[0];
	talk[0] = out[0] = errs[0] = -1;
	fcntl(p->talk, F_SETFL, O_NONBLOCK);
	fcntl(p->listen, F_SETFL, O_NONBLOCK);
	fcntl(p->err, F_SETFL, O_NONBLOCK);
done:
	for (int i = 0; i < 2; i++) {
		close_fd(&talk[i]);
		close_fd(&out[i]);
		close_fd(&errs[i]);
	}
	return pid < 0 ? -1 : 0;
}

static void
stderr_take(struct coprocess *p)
{
	char chunk[1024];
	ssize_t n;

	while (p->err >= 0 && (n = read(p->err, chunk, sizeof(chunk))) >= 0)
		if (n == 0)
			close_fd(&p->err);
		else
			subprocess_keep(p->err_text, &p->err_len, chunk, (size_t)n);
}

static int
timed_out(struct err *err)
{
	err_set(err, ERR_UNREACHABLE, "it did not answer in time");
	err->os_errno = ETIMEDOUT;
	return -1;
}

static int
has_ended(struct coprocess *p, struct err *err)
{
	stderr_take(p);
	err_set(err, ERR_UNREACHABLE, "it has ended");
	err->os_errno = EPIPE;
	return -1;
}

/* Wait until fd is ready for events, taking what comes on stderr meanwhile. */
static int
wait_ready(struct coprocess *p, int fd, short events, int64_t deadline_ms, struct err *err)
{
	for (;;) {
		struct pollfd fds[2] = {{fd, events, 0}, {p->err, POLLIN, 0}};
		int64_t left = deadline_ms - clock_now_ms();

		if (left <= 0)
			return timed_out(err);
		if (poll(fds, 2, (int)left) < 0 && errno != EINTR)
			return err_os(err, errno, "could not wait for it");
		if (fds[1].revents != 0)
			stderr_take(p);
		if (fds[0].revents != 0)
			return 0;
	}
}

int
coprocess_send(struct coprocess *p, const char *data, size_t len, int64_t deadline_ms, struct err *err)
{
	while (len > 0) {
		ssize_t n = send(p->talk, data, len, MSG_NOSIGNAL);

		if (n > 0) {
			data += n;
			len -= (size_t)n;
		} else if (n < 0 && errno == EAGAIN) {
			if (wait_ready(p, p->talk, POLLOUT, deadline_ms, err) != 0)
				return -1;
		} else if (n < 0 && errno != EINTR)
			return has_ended(p, err);
	}
	return 0;
}

int
coprocess_line(struct coprocess *p, char **line, int64_t deadline_ms, struct err *err)
{
	char *end;

	memmove(p->buf, p->buf + p->taken, p->len - p->taken);
	p->len -= p->taken;
	p->taken = 0;
	while ((end = memchr(p->buf, '\n', p->len)) == NULL) {
		ssize_t n;

		if (p->len == p->size)
			return err_set(err, ERR_FAILED, "its line is longer than %zu bytes", p->size - 1);
		n = read(p->listen, p->buf + p->len, p->size - p->len);
		if (n > 0)
			p->len += (size_t)n;
		else if (n == 0)
			return has_ended(p, err);
		else if (errno == EAGAIN) {
			if (wait_ready(p, p->listen, POLLIN, deadline_ms, err) != 0)
				return -1;
		} else if (errno != EINTR)
			return err_os(err, errno, "could not read what it says");
	}
	*end = '\0';
	*line = p->buf;
	p->taken = (size_t)(end - p->buf) + 1;
	return 0;
}

bool
coprocess_has_more(struct coprocess *p)
{
	struct pollfd fd = {p->listen, POLLIN, 0};

	return p->len > p->taken || (poll(&fd, 1, 0) > 0 && (fd.revents & POLLIN) != 0);
}

void
coprocess_stop(struct coprocess *p, int grace_ms)
{
	int64_t deadline = clock_now_ms() + grace_ms;

	if (p->pid <= 0)
		return;
	close_fd(&p->talk);
	while (waitpid(p->pid, NULL, WNOHANG) == 0) {
		if (clock_now_ms() >= deadline) {
			kill(-p->pid, SIGKILL);
			waitpid(p->pid, NULL, 0);
			break;
		}
		nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
	}
	close_fd(&p->listen);
	close_fd(&p->err);
	if (p->buf != NULL)
		explicit_bzero(p->buf, p->size);
	p->pid = 0;
}
