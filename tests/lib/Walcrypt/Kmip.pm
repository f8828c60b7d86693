# A real KMIP server (PyKMIP) for the tests, with certificates for itself and its clients; and one that says what it is told to.
#
#   my $kmip = Walcrypt::Kmip->new(name => 'main');
#   $kmip->uri('walcrypt', version => 3)                       kmip: URI with authority and client certificate
#   my $uid = $kmip->client('register', 'name', '00' x 32)     as its own client, tests/lib/Walcrypt/kmip_client.py
#   my ($uri, $end) = $kmip->broken(sub { my ($connection) = @_; ... })
package Walcrypt::Kmip;

use strict;
use warnings;
use IO::Socket::INET;
use IO::Socket::SSL;
use IPC::Open2;
use PostgreSQL::Test::Cluster ();
use PostgreSQL::Test::Utils;
use Walcrypt;
use Walcrypt::Certificates;

sub new
{
	my ($class, %o) = @_;
	my $dir  = $PostgreSQL::Test::Utils::tmp_check . "/kmip_$o{name}";
	my $self = bless { dir => $dir, port => PostgreSQL::Test::Cluster::get_free_port(), broken => [] }, $class;
	mkdir $dir, 0700 or die "$dir: $!";
	mkdir "$dir/policy", 0700;
	my $c = $self->{certificates} = Walcrypt::Certificates->new("$dir/certificates");
	$c->authority($_, key => 'rsa') for qw(ca other);
	$c->make('server', ca => 'ca', cn => 'server', names => 'DNS:localhost', key => 'rsa', usage => 'serverAuth');
	$c->make($_, ca => 'ca', cn => $_, key => 'rsa', usage => 'clientAuth') for qw(blue green);
	$c->make('stranger', ca => 'other', cn => 'stranger', key => 'rsa', usage => 'clientAuth');
	open(my $f, '>', "$dir/server.conf") or die;
	print $f "[server]\nhostname=127.0.0.1\nport=$self->{port}\ncertificate_path=@{[ $c->file('server.crt') ]}\nkey_path=@{[ $c->file('server.key') ]}\n"
	  . "ca_path=@{[ $c->file('ca.crt') ]}\nauth_suite=TLS1.2\npolicy_path=$dir/policy\nenable_tls_client_auth=True\ndatabase_path=$dir/kmip.db\nlogging_level=INFO\n";
	close $f;
	$self->start;
	return $self;
}

sub file    { my ($self, $name) = @_; return $self->{certificates}->file($name); }
sub pid     { return $_[0]{pid}; }
sub logfile { return "$_[0]{dir}/server.log"; }

sub start
{
	my ($self) = @_;
	my $pid = fork() // die;
	if ($pid == 0) {
		open(STDIN,  '<',  '/dev/null');
		open(STDOUT, '>>', "$self->{dir}/out");
		open(STDERR, '>&', \*STDOUT);
		setpgrp(0, 0);
		exec('pykmip-server', '-f', "$self->{dir}/server.conf", '-l', $self->logfile) or POSIX::_exit(1);
	}
	$self->{pid} = $pid;
	wait_for('PyKMIP', sub {
		die 'PyKMIP has ended: ' . slurp_file("$self->{dir}/out") if waitpid($pid, POSIX::WNOHANG()) == $pid;
		return IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $self->{port});
	});
	return;
}

sub stop
{
	my ($self) = @_;
	return unless $self->{pid};
	if (my $c = delete $self->{client}) { kill('KILL', $c->{pid}); waitpid($c->{pid}, 0); }
	kill('KILL', -$self->{pid});    # it waits for idle connections else
	waitpid($self->{pid}, 0);
	delete $self->{pid};
	return;
}

sub DESTROY
{
	my ($self) = @_;
	local $?;
	$self->stop;
	for (@{ $self->{broken} }) { kill('KILL', $_); waitpid($_, 0); }
	return;
}

sub uri
{
	my ($self, $name, %o) = @_;
	my $host = delete $o{host} // 'localhost';
	my $port = delete $o{port} // $self->{port};
	my $who  = delete $o{who}  // 'blue';
	%o = (ca_file => $self->file('ca.crt'), cert_file => $self->file("$who.crt"), key_file => $self->file("$who.key"), %o);
	return "kmip://$host:$port/$name?" . join('&', map { "$_=$o{$_}" } grep { defined $o{$_} } sort keys %o);
}

# PyKMIP's own client does it; what it answers.
sub client
{
	my ($self, @words) = @_;
	$self->{client} //= do {
		local $ENV{PYTHONWARNINGS} = 'ignore';
		my $pid = open2(my $from, my $to, 'python3', 'tests/lib/Walcrypt/kmip_client.py', $self->{port}, map { $self->file($_) } qw(ca.crt blue.crt blue.key));
		{ pid => $pid, from => $from, to => $to };
	};
	my ($from, $to) = @{ $self->{client} }{qw(from to)};
	print $to "@words\n";
	chomp(my $answer = <$from> // die "kmip_client.py: @words: it has ended\n");
	return $answer;
}

# A server with the right certificate that answers by the code: once for each connection, with the socket inside TLS.
sub broken
{
	my ($self, $code) = @_;
	my $listen = IO::Socket::INET->new(Listen => 20, LocalAddr => '127.0.0.1', ReuseAddr => 1) or die;
	my $pid = fork() // die;
	if ($pid == 0) {
		while (my $c = $listen->accept) {
			IO::Socket::SSL->start_SSL($c, SSL_server => 1, SSL_cert_file => $self->file('server.crt'), SSL_key_file => $self->file('server.key'),
				SSL_ca_file => $self->file('ca.crt'), SSL_verify_mode => SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT) or next;
			$code->($c);
			$c->close;
		}
		POSIX::_exit(0);
	}
	push @{ $self->{broken} }, $pid;
	return $listen->sockport;
}

# TTLV, as far as broken servers speak it.
sub ttlv
{
	my ($tag, $type, $value) = @_;
	my $len = length($value);
	return pack('NN', $tag << 8 | $type, $len) . $value . "\0" x (-$len % 8);
}
sub structure { my ($tag, @items) = @_; return ttlv($tag, 1, join('', @items)); }
sub enum      { my ($tag, $value) = @_; return ttlv($tag, 5, pack('N', $value)); }
sub integer   { my ($tag, $value) = @_; return ttlv($tag, 2, pack('N', $value)); }
sub text      { my ($tag, $value) = @_; return ttlv($tag, 7, $value); }
sub bytes     { my ($tag, $value) = @_; return ttlv($tag, 8, $value); }
sub version   { my ($major, $minor) = @_; return structure(0x420069, integer(0x42006A, $major), integer(0x42006B, $minor)); }

# An answer to an operation: a success with these items in its payload.
sub answer
{
	my ($operation, @payload) = @_;
	return structure(0x42007B, structure(0x42007A, version(1, 4), ttlv(0x420092, 9, "\0" x 8), integer(0x42000D, 1)),
		structure(0x42000F, enum(0x42005C, $operation), enum(0x42007F, 0), structure(0x42007C, @payload)));
}

# The next question: its operation; undef at the end.
sub question
{
	my ($c) = @_;
	my $read = sub { my ($n) = @_; my $data = ''; while (length($data) < $n) { $c->sysread($data, $n - length($data), length($data)) or return undef; } return $data; };
	my $head = $read->(8) // return undef;
	my $body = $read->(unpack('x4N', $head)) // return undef;
	return $body =~ /\x42\x00\x5C\x05\x00\x00\x00\x04(....)/s ? unpack('N', $1) : die;
}

1;
