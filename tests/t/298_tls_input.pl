# Goal: what a client sends over TLS is taken to its last byte, though one record of TLS may hold more than the proxy reads at once and
# the socket says nothing of what is left in it: a long query, and a manifest that the upstream takes slowly.
use strict;
use warnings;
use PostgreSQL::Test::Utils;
use PostgreSQL::Test::Cluster;
use IO::Socket::SSL;
use Test::More;
use Walcrypt;
use Walcrypt::Certificates;
use Walcrypt::Wire;

my $dir = PostgreSQL::Test::Utils::tempdir();
my $certs = Walcrypt::Certificates->new("$dir/pki");
$certs->authority('ca');
$certs->make('proxy', ca => 'ca', cn => 'localhost', names => 'DNS:localhost');

# a primary that takes nothing of a manifest for a while, and tells how long it was
my $sockets = PostgreSQL::Test::Utils::tempdir_short();
my $red = Walcrypt::Wire::serve("$sockets/.s.PGSQL.5432", sub {
	my ($wire) = @_;
	$wire->play_primary({ server_version => '17.2' }, sub {
		my ($c, $text) = @_;
		my $len = 0;
		$text eq 'UPLOAD_MANIFEST' or return 0;
		$c->send('G', pack('Cn', 0, 0));
		select(undef, undef, undef, 1);
		while (my ($type, $body) = $c->message) {
			if ($type eq 'c') { $c->send('C', "UPLOAD $len\0"); return 1; }
			$len += length $body;
		}
		return 0;
	});
});
my $proxy = Walcrypt::Proxy->new(nodes => { red => { conninfo => "host=$sockets port=5432 user=x" }, blue => { allow_clear => 'on' } },
	settings => { client_tls_sslmode => 'allow', client_tls_cert_file => $certs->file('proxy.crt'), client_tls_key_file => $certs->file('proxy.key') });
$proxy->start;

sub begin
{
	my (%params) = @_;
	my $c = Walcrypt::Wire->connect_tcp($proxy);
	$c->packet(pack('N', 80877103));
	$c->bytes(1) eq 'S' && $c->start_tls or die 'TLS: ' . IO::Socket::SSL::errstr();
	$c->startup(%params);
	$c->until('Z');
	return $c;
}

# one write is one record, of at most 16 KiB
for my $len (4000, 9000, 16000, 40000, 65000) {
	my $c = begin(user => 'walcrypt_admin', database => 'walcrypt');
	$c->raw($_) for unpack('(a16000)*', 'Q' . pack('N', $len + 5) . ' ' x $len . "\0");
	is(($c->until('Z'))[0], 'EZ', "a query of $len bytes is answered");
}

# of each length somewhat more than what fits on the way to a server that does not read: of some the end waits in TLS
my @lengths = map { 16 * $_ } 20 .. 60;
my @uploads = map { my $c = begin(user => 'blue', replication => 'true'); $c->send('Q', "UPLOAD_MANIFEST\0"); $c->until('G'); $c } @lengths;
for my $i (0 .. $#lengths) {
	my $piece = 'd' . pack('N', 4004) . 'x' x 4000;
	$uploads[$i]->raw($piece x 4) for 1 .. $lengths[$i] / 16;
	$uploads[$i]->raw($piece x 3 . 'c' . pack('N', 4));
}
my %arrived = map { my ($type, $body) = $uploads[$_]->message; ($lengths[$_] => ($type // '') . ($body // '')) } 0 .. $#lengths;
is_deeply(\%arrived, { map { $_ => 'CUPLOAD ' . 1000 * ($_ + 12) . "\0" } @lengths }, 'manifests of many lengths arrive');
is($proxy->stop, 0, 'the proxy stops in good order');
kill('TERM', $red);
waitpid($red, 0);
done_testing();
