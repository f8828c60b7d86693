# A relay that a test owns, between a client and a server: it can fall silent, as a link does that loses every packet, without
# closing anything; be cut; and hold back one request.
#
#   my $relay = Walcrypt::Relay->new($server);        anything with host (a socket's folder) and port, or { host, port } of TCP
#   $relay->start;  ... 'host=127.0.0.1 port=' . $relay->port ...
#   $relay->freeze; $relay->thaw; $relay->cut; $relay->start;
#   $relay->hold(qr/TIMELINE_HISTORY/); $relay->wait_held; $relay->release;
use strict;
use warnings;

package Walcrypt::Relay;

use File::Temp ();
use IO::Select;
use IO::Socket::INET;
use IO::Socket::UNIX;
use POSIX ();
use PostgreSQL::Test::Cluster;
use Walcrypt ();

my @all;

sub new
{
	my ($class, $server) = @_;
	my $self = bless { to => ref $server eq 'HASH' ? "$server->{host}:$server->{port}" : $server->host . '/.s.PGSQL.' . $server->port, port => PostgreSQL::Test::Cluster::get_free_port(),
		dir => File::Temp::tempdir('wcrXXXXXX', TMPDIR => 1, CLEANUP => 1) }, $class;
	push @all, $self;
	return $self;
}

sub port { return $_[0]{port}; }

# One process listens, one carries each connection; all in one process group.
sub start
{
	my ($self) = @_;
	my $listener = IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => $self->{port}, Listen => 16, ReuseAddr => 1) or die "relay: $!";
	my $pid = fork() // die "fork: $!";
	if ($pid == 0) {
		POSIX::setpgid(0, 0);
		$SIG{CHLD} = 'IGNORE';
		$SIG{TERM} = $SIG{INT} = 'DEFAULT';
		while (1) {
			my $client = $listener->accept or next;
			if (fork() == 0) {
				close $listener;
				eval { $self->carry($client) };
				POSIX::_exit(0);
			}
			close $client;
		}
	}
	POSIX::setpgid($pid, $pid);
	close $listener;
	$self->{pid} = $pid;
	return;
}

# Small buffers, so that a silent relay takes in little more.
sub carry
{
	my ($self, $client) = @_;
	my $server = ($self->{to} =~ m{^/} ? IO::Socket::UNIX->new(Peer => $self->{to}) : IO::Socket::INET->new(PeerAddr => $self->{to})) or return;
	my $both = IO::Select->new($client, $server);
	while (my @ready = $both->can_read) {
		for my $from (@ready) {
			my $to = $from == $client ? $server : $client;
			sysread($from, my $data, 65536) or return;
			$self->held($data) if $from == $client && -e "$self->{dir}/hold";
			while (length $data) { my $n = syswrite($to, $data) // return; substr($data, 0, $n, ''); }
		}
	}
	return;
}

sub held
{
	my ($self, $data) = @_;
	my $what = Walcrypt::slurp_from("$self->{dir}/hold");
	return unless $data =~ /$what/ && unlink "$self->{dir}/hold";
	open(my $f, '>', "$self->{dir}/held") or return;
	close $f;
	select(undef, undef, undef, 0.02) until -e "$self->{dir}/release";
	return;
}

# The next request that matches waits in the relay until release.
sub hold
{
	my ($self, $what) = @_;
	unlink map { "$self->{dir}/$_" } qw(held release);
	open(my $f, '>', "$self->{dir}/hold.new") or die;
	print $f $what;
	close $f;
	rename "$self->{dir}/hold.new", "$self->{dir}/hold";
	return;
}
sub wait_held { my ($self) = @_; Walcrypt::wait_for('the request in the relay', sub { -e "$self->{dir}/held" }); return; }
sub release { my ($self) = @_; open(my $f, '>', "$self->{dir}/release") or die; close $f; return; }

# The link goes silent: what is sent arrives at the relay's sockets at best, and nothing comes back. Connections stay open, and
# new ones get no answer.
sub freeze { my ($self) = @_; kill('STOP', -$self->{pid}) or die "relay: $!"; return; }
sub thaw { my ($self) = @_; kill('CONT', -$self->{pid}) or die "relay: $!"; return; }
# All its connections break; nobody listens until the next start.
sub cut
{
	my ($self) = @_;
	return unless defined $self->{pid};
	kill('KILL', -$self->{pid});
	waitpid($self->{pid}, 0);
	$self->{pid} = undef;
	return;
}

END { my $status = $?; $_->cut for @all; $? = $status; }

1;
