# The wire protocol by hand, for tests of what a stock client or server would never send.
#
#   my $c = Walcrypt::Wire->connect($proxy); $c->startup(user => 'blue', replication => 'true');
#   my ($type, $body) = $c->message; $c->send('Q', "IDENTIFY_SYSTEM\0");
#   my $pid = Walcrypt::Wire::serve($socket_path, sub { my ($wire) = @_; ... });      a server, one process per connection
use strict;
use warnings;

package Walcrypt::Wire;

use IO::Select;
use IO::Socket::INET;
use IO::Socket::UNIX;
use POSIX ();

sub connect
{
	my ($class, $proxy) = @_;
	my $path = $proxy->host . '/.s.PGSQL.' . $proxy->port;
	my $socket = IO::Socket::UNIX->new(Peer => $path) or die "$path: $!";
	return bless { socket => $socket, in => '' }, $class;
}

# A replication session of this user, after this command, if any, and its answer's message $stop.
sub begin
{
	my ($class, $proxy, $user, $command, $stop) = @_;
	my $self = $class->connect($proxy);
	$self->startup(user => $user, replication => 'true', application_name => "test_$user");
	$self->until('Z');
	if (defined $command) { $self->send('Q', "$command\0"); $self->until($stop); }
	return $self;
}

# connect over TCP: to a port of loopback (default: the proxy's), or of another address.
sub connect_tcp
{
	my ($class, $proxy, $port, $addr) = @_;
	my $socket = IO::Socket::INET->new(PeerAddr => $addr // '127.0.0.1', PeerPort => $port // $proxy->port) or die "port: $!";
	return bless { socket => $socket, in => '' }, $class;
}

# TLS from here on; %how is IO::Socket::SSL's. False (and $IO::Socket::SSL::SSL_ERROR) when it comes to nothing.
sub start_tls
{
	my ($self, %how) = @_;
	require IO::Socket::SSL;
	return IO::Socket::SSL->start_SSL($self->{socket}, SSL_verify_mode => IO::Socket::SSL::SSL_VERIFY_NONE(), Timeout => 20, %how);
}

sub raw { my ($self, $bytes) = @_; local $SIG{PIPE} = 'IGNORE'; return syswrite($self->{socket}, $bytes); }
sub send { my ($self, $type, $body) = @_; return $self->raw($type . pack('N', length($body) + 4) . $body); }
sub packet { my ($self, $body) = @_; return $self->raw(pack('N', length($body) + 4) . $body); }

sub startup
{
	my ($self, %params) = @_;
	my $version = delete $params{version} // 0x30000;
	return $self->packet(pack('N', $version) . join('', map { "$_\0$params{$_}\0" } sort keys %params) . "\0");
}

# More bytes; false at the end or when none come for so long (60 s) that only a fault is left.
sub more
{
	my ($self, $seconds) = @_;
	my $waits = $self->{socket}->can('pending') ? $self->{socket}->pending : 0;
	return 0 unless $waits || IO::Select->new($self->{socket})->can_read($seconds // 60);
	return sysread($self->{socket}, $self->{in}, 65536, length $self->{in}) ? 1 : 0;
}

sub bytes { my ($self, $n) = @_; while (length $self->{in} < $n) { $self->more or return; } return substr($self->{in}, 0, $n, ''); }

# (type, body), or nothing at the end.
sub message
{
	my ($self) = @_;
	my $head = $self->bytes(5) // return;
	my ($type, $len) = unpack('aN', $head);
	return ($type, $self->bytes($len - 4) // return);
}

# A startup packet, as a server reads it; requests for encryption are declined.
sub read_startup
{
	my ($self) = @_;
	while (1) {
		my $len = unpack('N', $self->bytes(4) // return);
		my $body = $self->bytes($len - 4) // return;
		return $body if unpack('N', $body) >> 16 == 3;
		$self->raw('N');
	}
}

# Everything up to a message of a type; the types seen as one string, and the last body.
sub until
{
	my ($self, $stop) = @_;
	my $seen = '';
	while (my ($type, $body) = $self->message) {
		$seen .= $type;
		return ($seen, $body) if index($stop, $type) >= 0;
	}
	return ($seen, undef);
}

# The fields of an ErrorResponse.
sub fields { my ($body) = @_; return map { substr($_, 0, 1) => substr($_, 1) } grep { $_ ne '' } split(/\0/, $body // ''); }

# Has the other side closed?
sub closed { my ($self) = @_; while ($self->more) { } return IO::Select->new($self->{socket})->can_read(0) ? 1 : 0; }

sub row
{
	my ($self, @values) = @_;
	$self->send('T', pack('n', scalar @values) . join('', map { "c$_\0" . pack('NnNnNn', 0, 0, 25, 0xffff, 0xffffffff, 0) } 1 .. @values));
	$self->send('D', pack('n', scalar @values) . join('', map { defined $_ ? pack('N', length $_) . $_ : pack('N', 0xffffffff) } @values));
	return $self->send('C', "SHOW\0");
}

# A server on a Unix socket; the code runs in a process of its own for each connection. Returns the listening process.
sub serve
{
	my ($path, $code) = @_;
	my $listener = IO::Socket::UNIX->new(Local => $path, Listen => 16) or die "$path: $!";
	my $pid = fork() // die "fork: $!";
	return $pid if $pid != 0;
	$SIG{CHLD} = 'IGNORE';
	$SIG{TERM} = 'DEFAULT';
	while (1) {
		my $socket = $listener->accept or next;
		if (fork() == 0) {
			close $listener;
			eval { $code->(bless { socket => $socket, in => '' }, 'Walcrypt::Wire') };
			POSIX::_exit(0);
		}
		close $socket;
	}
}

# What a primary says until its first command: startup, then settings and the questions of the proxy are answered from %facts;
# $code gets each other query's text and may answer it; it returns false to end the connection.
sub play_primary
{
	my ($self, $facts, $code) = @_;
	my %set = (block_size => 8192, wal_block_size => 8192, segment_size => '1GB', wal_segment_size => '16MB', data_checksums => 'on',
		in_hot_standby => 'off', wal_sender_timeout => '1min', server_version => '15.8', system_identifier => '7000000000000000001', timeline => 1, xlogpos => '0/3000000', %$facts);
	$self->read_startup // return;
	$self->send('R', pack('N', 0));
	$self->send('S', "server_version\0$set{server_version}\0");
	$self->send('K', pack('NN', 4711, 1));
	$self->send('Z', 'I');
	while (my ($type, $body) = $self->message) {
		return if $type eq 'X';
		next if $type ne 'Q';
		$body =~ s/\0$//;
		if ($body =~ /^SHOW "?(\w+)"?$/ && exists $set{$1}) { $self->row($set{$1}); }
		elsif ($body eq 'IDENTIFY_SYSTEM') { $self->row($set{system_identifier}, $set{timeline}, $set{xlogpos}, undef); }
		else { $code && $code->($self, $body) or return; }
		$self->send('Z', 'I');
	}
	return;
}

1;
