# strace, where it may trace. Some containers and kernels (seccomp, Yama) do not let it: what needs it is skipped, with strace's own reason.
#
#   needs_strace();             at the beginning of a test: it is skipped as a whole
#   SKIP: { skip_without_strace(2); ... }
#
# 'attach' behind either: processes are traced that run already, which more machines forbid.
use strict;
use warnings;

package Walcrypt::Strace;

use Exporter 'import';
use IPC::Run ();
use Test::More ();
use Walcrypt ();

our @EXPORT = qw(needs_strace skip_without_strace);

my %reason;

sub begin { my ($said, @command) = @_; return eval { IPC::Run::start([ 'strace', '-o', '/dev/null', @command ], '<', \undef, '>&', $said) }; }

# What a process of its own making says.
sub try_child
{
	my $run = begin(\my $said, 'true') // return "there is no strace: $@";
	return $run->finish ? '' : $said;
}

# ... and one that runs already.
sub try_attach
{
	my $sleeper = fork() // die "fork: $!";
	if ($sleeper == 0) { exec('sleep', 600) or POSIX::_exit(127); }
	my $run = begin(\my $said, '-p', $sleeper);
	my $ends = !$run || Walcrypt::wait_for('strace', sub { $run->pump_nb; ($said // '') =~ /attached/ ? 'attached' : !$run->pumpable }) ne 'attached';
	kill('KILL', $sleeper);
	waitpid($sleeper, 0);
	eval { $run->finish } if $run;
	return $ends ? $said // 'there is no strace' : '';
}

# '', or why not.
sub cannot
{
	my ($how) = @_;
	my $why = $reason{ $how // '' } //= ($how // '') eq 'attach' ? try_attach() : try_child();
	return $why eq '' ? '' : 'strace cannot trace here: ' . $why =~ s/\s+/ /gr;
}

sub needs_strace
{
	my $why = cannot(@_);
	Test::More::plan(skip_all => $why) if $why ne '';
	return;
}

sub skip_without_strace
{
	my ($tests, @how) = @_;
	my $why = cannot(@how);
	Test::More::skip($why, $tests) if $why ne '';
	return;
}

1;
