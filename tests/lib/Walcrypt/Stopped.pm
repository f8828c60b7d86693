# walcrypt-ctl, stopped (SIGSTOP) after one of its renames, which is where its logbook has just been written: a test does what it
# likes to everybody else meanwhile.
#
#   my $tool = Walcrypt::Stopped->new($n, 'switchover', ...);     begun; stops after its nth rename
#   if ($tool->stopped) { ... $tool->go_on; }                     0: it came to its end before
#   my ($rc, $out, $err) = $tool->finish;
#   my $tool = Walcrypt::Stopped->at_state($proxy->keystore, 'stopped', 'switchover', ...);     stopped when its logbook says so
use strict;
use warnings;

package Walcrypt::Stopped;

use IPC::Run ();
use PostgreSQL::Test::Utils ();
use Walcrypt ();

sub new
{
	my ($class, $n, @args) = @_;
	my $dir = PostgreSQL::Test::Utils::tempdir();
	my $self = bless { trace => "$dir/trace", out => '', err => '', stops => 0 }, $class;
	print "# walcrypt-ctl @args, to be stopped after rename $n\n";
	$self->{run} = IPC::Run::start([ 'strace', '-q', '-o', $self->{trace}, '-e', 'trace=rename', '-e', "inject=rename:signal=STOP:when=$n", $Walcrypt::ctl, @args ],
		'<', \undef, '>', \$self->{out}, '2>', \$self->{err});
	return $self;
}

# Begun, and stopped in this state; dies when it ends before.
sub at_state
{
	my ($class, $keystore, $state, @args) = @_;
	my $self = $class->new('1+', @args);
	while ($self->stopped) {
		return $self if Walcrypt::slurp_from("$keystore/switchover.json") =~ /"state": "$state"/;
		$self->go_on;
	}
	my ($rc, $out, $err) = $self->finish;
	die "walcrypt-ctl ended with $rc before state $state: $out$err\n";
}

sub stopped
{
	my ($self) = @_;
	return Walcrypt::wait_for('the tool to stop or end', sub {
		return 'stopped' if (() = Walcrypt::slurp_from($self->{trace}) =~ /stopped by SIGSTOP/g) > $self->{stops};
		$self->{run}->pump_nb;
		return $self->{run}->pumpable ? 0 : 'ended';
	}) eq 'stopped';
}

# The tool's own process.
sub pid
{
	my ($self) = @_;
	my $tracer = $self->{run}{KIDS}[0]{PID};
	return (split(' ', Walcrypt::slurp_from("/proc/$tracer/task/$tracer/children")))[0] // die "the tool is gone\n";
}

sub go_on { my ($self) = @_; $self->{stops}++; kill('CONT', $self->pid); return; }
# From here on it is not stopped any more.
sub run_on { my ($self) = @_; my $pid = $self->pid; kill('KILL', $self->{run}{KIDS}[0]{PID}); kill('CONT', $pid); return; }
sub kill9 { my ($self) = @_; kill('KILL', $self->pid); $self->{run}->finish; return; }

# (exit status, stdout, stderr), as ctl_output's.
sub finish
{
	my ($self) = @_;
	$self->{run}->finish;
	my $status = $self->{run}->full_result(0);
	my $rc = $status & 127 ? 128 + ($status & 127) : $status >> 8;
	print "# walcrypt-ctl: exit $rc" . ($self->{err} ne '' ? ": $self->{err}" : '') . "\n";
	return ($rc, $self->{out}, $self->{err});
}

1;
