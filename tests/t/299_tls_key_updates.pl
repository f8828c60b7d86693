# Goal: a client that asks for new TLS keys without end and takes no answer costs nothing while it waits; it need not even
# have said who it is.
use Walcrypt::Network;
use strict;
use warnings;
use PostgreSQL::Test::Utils;
use PostgreSQL::Test::Cluster;
use POSIX ();
use Test::More;
use Time::HiRes qw(sleep);
use Walcrypt;
use Walcrypt::Certificates;

# small buffers in this network, so that they are full soon
append_to_file("/proc/sys/net/ipv4/tcp_$_", "4096 16384 32768\n") for qw(wmem rmem);
my $certs = Walcrypt::Certificates->new(PostgreSQL::Test::Utils::tempdir() . '/pki');
$certs->authority('ca');
$certs->make('proxy', ca => 'ca', cn => 'localhost', names => 'DNS:localhost');
my $proxy = Walcrypt::Proxy->new(nodes => { red => { conninfo => 'host=/nonexistent' } },
	settings => { client_tls_sslmode => 'allow', client_tls_cert_file => $certs->file('proxy.crt'), client_tls_key_file => $certs->file('proxy.key') });
$proxy->start;
sub ticks { my @f = split(/ /, slurp_from('/proc/' . $proxy->pid . '/stat') =~ s/.*\) //sr); return $f[11] + $f[12]; }

my ($in, $out, $err) = ('', '', '');
my $client = IPC::Run::start([ 'python3', 'tests/lib/Walcrypt/key_updates.py', $proxy->port ], '<', \$in, '>', \$out, '2>', \$err);
wait_for('the proxy to be full', sub { $client->pump_nb; $out =~ /blocked/ || $err ne '' });
is($err, '', 'a client asks for new keys until nobody reads any more');
my $before = ticks();
sleep 2;
my $spent = (ticks() - $before) / POSIX::sysconf(&POSIX::_SC_CLK_TCK);
cmp_ok($spent, '<', 0.2, "in two seconds the proxy spends $spent s on it");
like($proxy->console('SHOW SESSIONS'), qr/\|127\.0\.0\.1:\d+\|startup\|/, 'it is still there');
$client->kill_kill;
wait_for('it to go', sub { $proxy->console('SHOW SESSIONS') !~ /\|startup\|/ });
is($proxy->stop, 0, 'the proxy stops in good order');
done_testing();
