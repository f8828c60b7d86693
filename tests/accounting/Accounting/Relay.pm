# Bytes between a server and its clients.
use strict;
use warnings;

package Accounting::Relay;

use File::Temp ();
use IO::Socket::UNIX;
use POSIX ();
use Time::HiRes qw(sleep time);

my @relays;

# to: [socket directory, port]; dir: its tapes/ takes the recording
sub new
{
	my ($class, $name, $to, %params) = @_;
	my $sockets = File::Temp::tempdir('wcrXXXXXX', TMPDIR => 1, CLEANUP => 1);
	my $self = bless { name => $name, sockets => $sockets, port => PostgreSQL::Test::Cluster::get_free_port(), to => $to, %params }, $class;
	mkdir "$params{dir}/tapes";
	my $pid = fork() // die "fork: $!";
	if ($pid == 0) {
		@SIG{qw(INT TERM)} = ('DEFAULT') x 2;
		exec('python3', "$Accounting::tools/relay.py", '--listen', "$sockets:$self->{port}", '--to', join(':', @$to),
			'--source', "wire:$name", '--tapes', "$params{dir}/tapes") or POSIX::_exit(127);
	}
	$self->{pid} = $pid;
	push @relays, $self;
	Walcrypt::wait_for("relay $name", sub {
		my $s = IO::Socket::UNIX->new(Peer => "$sockets/.s.PGSQL.$self->{port}") or return 0;
		close $s;
		return 1;
	});
	return $self;
}

sub connstr { my ($self, $more) = @_; return "host=$self->{sockets} port=$self->{port}" . (defined $more ? " $more" : ''); }

sub stop
{
	my ($self) = @_;
	return unless defined $self->{pid};
	kill('TERM', $self->{pid});
	waitpid($self->{pid}, 0);
	$self->{pid} = undef;
	return;
}

END
{
	my $status = $?;
	$_->stop for @relays;
	$? = $status;
}

1;
