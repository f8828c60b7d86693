#include "common/subprocess.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "common/clock.h"

extern char **environ;

struct pipes {
	int out[2], err[2], failed[2]; /* failed: closed by exec, else carries errno */
};

static void
close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

static void
pipes_close(struct pipes *p)
{
	for (int i = 0; i < 2; i++) {
		close_fd(&p->out[i]);
		close_fd(&p->err[i]);
		close_fd(&p->failed[i]);
	}
}

/* In the child: only async-signal-safe calls, because the parent may have threads. */
static void
child_run(const struct subprocess *p, const struct pipes *pipes, const sigset_t *mask)
{
	int null, failure;

	if (p->own_group)
		setpgid(0, 0);
	signal(SIGPIPE, SIG_DFL);
	sigprocmask(SIG_SETMASK, mask, NULL);
	if (!p->share_stdin) {
		if ((null = open("/dev/null", O_RDONLY)) < 0 || dup2(null, STDIN_FILENO) < 0)
			goto fail;
		if (null != STDIN_FILENO)
			close(null);
	}
	if (p->out != NULL && dup2(pipes->out[1], STDOUT_FILENO) < 0)
		goto fail;
	if (!p->share_stderr && dup2(pipes->err[1], STDERR_FILENO) < 0)
		goto fail;
	if (p->folder != NULL && chdir(p->folder) != 0)
		goto fail;
	execvpe(p->argv[0], (char *const *)(uintptr_t)p->argv, p->envp != NULL ? p->envp : environ);
fail:
	failure = errno;
	if (write(pipes->failed[1], &failure, sizeof(failure)) < 0)
		_exit(126);
	_exit(127);
}

void
subprocess_keep(char kept[static SUBPROCESS_STDERR_MAX], size_t *used, const char *data, size_t len)
{
	size_t room = SUBPROCESS_STDERR_MAX - 1;

	if (len > room) {
		data += len - room;
		len = room;
	}
	if (*used + len > room) {
		size_t drop = *used + len - room;

		memmove(kept, kept + drop, *used - drop);
		*used -= drop;
	}
	memcpy(kept + *used, data, len);
	*used += len;
	kept[*used] = '\0';
}

/* Read what comes until both pipes end. 1: the deadline passed; 2: too much output. */
static int
collect(struct subprocess *p, struct pipes *pipes, int64_t deadline)
{
	size_t err_used = 0;
	char chunk[1024];

	while (pipes->out[0] >= 0 || pipes->err[0] >= 0) {
		struct pollfd fds[2] = {{pipes->out[0], POLLIN, 0}, {pipes->err[0], POLLIN, 0}};
		int64_t left = deadline == 0 ? -1 : deadline - clock_now_ms();
		ssize_t n;

		if (deadline != 0 && left <= 0)
			return 1;
		if (poll(fds, 2, (int)left) < 0 && errno != EINTR)
			return 1;
		if (fds[0].revents != 0) {
			/* one byte more than fits shows that it is too much */
			size_t room = p->out_size - p->out_len;

			n = read(pipes->out[0], p->out + p->out_len, room);
			if (n > 0)
				p->out_len += (size_t)n;
			if (p->out_len == p->out_size)
				return 2;
			if (n == 0)
				close_fd(&pipes->out[0]);
		}
		if (fds[1].revents != 0) {
			n = read(pipes->err[0], chunk, sizeof(chunk));
			if (n > 0)
				subprocess_keep(p->err_text, &err_used, chunk, (size_t)n);
			else if (n == 0)
				close_fd(&pipes->err[0]);
		}
	}
	if (p->out != NULL)
		p->out[p->out_len] = '\0';
	return 0;
}

/* Wait for the end; 1 when the deadline passes first. */
static int
reap(pid_t pid, int *status, int64_t deadline)
{
	for (;;) {
		pid_t got = waitpid(pid, status, deadline == 0 ? 0 : WNOHANG);

		if (got == pid)
			return 0;
		if (got < 0 && errno != EINTR)
			return 1;
		if (deadline != 0 && clock_now_ms() >= deadline)
			return 1;
		if (deadline != 0)
			nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
	}
}

int
subprocess_run(struct subprocess *p, struct err *err)
{
	struct pipes pipes = {{-1, -1}, {-1, -1}, {-1, -1}};
	int64_t deadline = p->timeout_ms > 0 ? clock_now_ms() + p->timeout_ms : 0;
	sigset_t mask, all;
	int status = 0, failure = 0, trouble = 0;
	pid_t pid = -1;

	p->out_len = 0;
	p->err_text[0] = '\0';
	if (pipe2(pipes.failed, O_CLOEXEC) != 0 || (p->out != NULL && pipe2(pipes.out, O_CLOEXEC) != 0) ||
	    (!p->share_stderr && pipe2(pipes.err, O_CLOEXEC) != 0)) {
		err_os(err, errno, "could not create a pipe");
		goto fail;
	}
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &mask);
	if ((pid = fork()) == 0)
		child_run(p, &pipes, &mask);
	pthread_sigmask(SIG_SETMASK, &mask, NULL);
	if (pid < 0) {
		err_os(err, errno, "could not fork");
		goto fail;
	}
	close_fd(&pipes.out[1]);
	close_fd(&pipes.err[1]);
	close_fd(&pipes.failed[1]);
	if (read(pipes.failed[0], &failure, sizeof(failure)) == (ssize_t)sizeof(failure)) {
		waitpid(pid, &status, 0);
		err_os(err, failure, "could not run \"%s\"", p->argv[0]);
		goto fail;
	}
	if ((trouble = collect(p, &pipes, deadline)) == 0)
		trouble = reap(pid, &status, deadline);
	if (trouble != 0) {
		kill(p->own_group ? -pid : pid, SIGKILL);
		waitpid(pid, &status, 0);
		if (trouble == 2)
			err_set(err, ERR_FAILED, "\"%s\" printed more than %zu bytes", p->argv[0], p->out_size - 1);
		else {
			err_set(err, ERR_UNREACHABLE, "\"%s\" did not end within %d ms", p->argv[0], p->timeout_ms);
			err->os_errno = ETIMEDOUT;
		}
		goto fail;
	}
	p->status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
	pipes_close(&pipes);
	return 0;
fail:
	if (p->out != NULL)
		explicit_bzero(p->out, p->out_size);
	p->out_len = 0;
	pipes_close(&pipes);
	return -1;
}

char **
subprocess_environment(const char *const *without)
{
	size_t n = 0, used = 0;
	char **copy;

	while (environ[n] != NULL)
		n++;
	if ((copy = calloc(n + 1, sizeof(*copy))) == NULL)
		return NULL;
	for (size_t i = 0; i < n; i++) {
		bool keep = true;

		for (size_t j = 0; without[j] != NULL; j++) {
			size_t len = strlen(without[j]);

			if (strncmp(environ[i], without[j], len) == 0 && environ[i][len] == '=')
				keep = false;
		}
		if (keep)
			copy[used++] = environ[i];
	}
	return copy;
}
