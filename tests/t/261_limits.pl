# Goal: sessions are limited, in all and for each node; one without a command is ended after client_idle_timeout; a reload says what
# came of it, keeps sessions, and brings another certificate for those that begin after it.
use strict;
use warnings;
use PostgreSQL::Test::Utils;
use PostgreSQL::Test::Cluster;
use Test::More;
use Walcrypt;
use Time::Local ();
use Walcrypt::Certificates;
use Walcrypt::Console;
use Walcrypt::Wire;

my $red = Walcrypt::Node->new('red');
$red->init(allows_streaming => 1, extra => ['-k']);
$red->append_conf('postgresql.conf', "max_wal_senders = 20\n");
$red->start;
my $certs = Walcrypt::Certificates->new(PostgreSQL::Test::Utils::tempdir() . '/certs');
$certs->authority('ca');
$certs->make($_, ca => 'ca', cn => "$_.test", names => 'IP:127.0.0.1', days => $_ eq 'first' ? 30 : 60) for qw(first second);
sub put_certificate { my ($name) = @_; PostgreSQL::Test::Utils::system_or_bail('cp', '-p', $certs->file("$name.$_"), $certs->file("proxy.$_")) for qw(crt key); return; }
put_certificate('first');
my $proxy = Walcrypt::Proxy->new(
	nodes => { red => { conninfo => $red->connstr_for_proxy }, blue => { keyset => 'blue', max_sessions => 2, profile => 1 }, green => { keyset => 'blue' } },
	settings => { max_sessions => 4, client_tls_sslmode => 'allow', client_tls_cert_file => $certs->file('proxy.crt'), client_tls_key_file => $certs->file('proxy.key'),
		http_listen => '127.0.0.1:' . (my $web = PostgreSQL::Test::Cluster::get_free_port()) });
$proxy->key_init('blue');
$proxy->start;

# A client that is served, or what it is told.
sub begin
{
	my ($user) = @_;
	my $c = Walcrypt::Wire->connect($proxy);
	$c->startup(user => $user, replication => 'true');
	my ($seen, $body) = $c->until('ZE');
	return $seen =~ /Z$/ ? ($c) : ($c, { Walcrypt::Wire::fields($body) });
}
sub served { my ($c, $what) = @_; $c->send('Q', "IDENTIFY_SYSTEM\0"); return is(($c->until('ZE'))[0], 'TDCZ', $what); }

# 1 limits
my @blue = map { (begin('blue'))[0] } 1 .. 2;
my (undef, $why) = begin('blue');
is("$why->{S} $why->{C}", 'FATAL 53300', 'a third session of a profile that may have two is refused');
like($why->{M}, qr/^too many sessions$/, '... with the reason');
like($why->{D}, qr/max_sessions of its section/, '... and which limit it is');
my @green = map { (begin('green'))[0] } 1 .. 2;
(undef, $why) = begin('green');
is($why->{D}, 'There are max_sessions of them already.', 'a fifth session in all is refused too');
is($proxy->console('SHOW VERSION') =~ /walcrypt-proxy/, 1, 'the console is open for the administrator');
served($_, 'those who are there are served') for @blue, @green;
close $blue[0]{socket};
my $again = wait_for('a place', sub { my ($c, $no) = begin('blue'); $no ? undef : $c });
served($again, 'who goes makes room');
like($proxy->log, qr/WARNING:  session \d+ \(blue\): too many sessions/, 'the log has it');

# 2 what a reload says
my $reloads = () = $proxy->log =~ /reloaded; sessions/g;
is($proxy->console('RELOAD'), 'RELOAD', 'RELOAD answers');
is(scalar(() = $proxy->log =~ /reloaded; sessions/g), $reloads + 1, '... when it is done');
$proxy->{settings}{max_sessions} = 'many';
$proxy->write_conf;
my ($out, $err) = $proxy->console('RELOAD');
like($err, qr/ERROR:  .*max_sessions = "many" is not a number/, 'one that fails says why');
my ($rc, undef, $said) = ctl_output('reload', '--host', $proxy->host, '--port', $proxy->port, '--user', 'walcrypt_admin');
is($rc, 1, 'so does walcrypt-ctl reload');
like($said, qr/max_sessions = "many" is not a number/, '... with the reason');
served($_, 'and everybody stays') for $again, @green;
# many at once: each is answered by one that began after it
$proxy->{settings}{max_sessions} = 4;
$proxy->write_conf;
my @asks = map { IPC::Run::start([ 'psql', '-XAt', '-d', $proxy->connstr('walcrypt_admin') . ' dbname=walcrypt', '-c', 'RELOAD' ], '<', \undef, '>&', \my $answer) } 1 .. 6;
ok($_->finish, 'a RELOAD beside others') for @asks;

# 3 another certificate, without a restart
sub subject
{
	my $c = Walcrypt::Wire->connect_tcp($proxy);
	$c->packet(pack('N', 80877103));
	is($c->bytes(1), 'S', 'TLS is there');
	$c->start_tls() or die 'TLS: ' . IO::Socket::SSL::errstr();
	return ($c->{socket}->peer_certificate('cn'), $c);
}
# When the certificate ends that clients are shown, as the metrics and the console say and as openssl reads it from the file; seconds.
sub ends
{
	my ($name) = @_;
	my %month = map { (qw(Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec))[$_] => $_ } 0 .. 11;
	my ($mon, $day, $h, $m, $s, $y) = Walcrypt::Certificates::openssl('x509', '-in', $certs->file("$name.crt"), '-noout', '-enddate') =~ /=(\w+) +(\d+) (\d+):(\d+):(\d+) (\d+)/;
	my $want = Time::Local::timegm($s, $m, $h, $day, $month{$mon}, $y);
	my ($metric) = (http_get($web, '/metrics'))[2] =~ /^walcrypt_certificate_expiry_timestamp_seconds (\d+)$/m;
	is($metric, $want, "the metric says when the $name certificate ends");
	my $text = sprintf('%04d-%02d-%02d %02d:%02d:%02d UTC', $y, $month{$mon} + 1, $day, $h, $m, $s);
	like($proxy->console('SHOW STATUS'), qr/^certificate_expires\|\Q$text\E$/m, '... and so does SHOW STATUS');
	return $want;
}
my $end = ends('first');
my ($cn, $old) = subject();
is($cn, 'first.test', 'the first certificate');
close $green[0]{socket};
$old->startup(user => 'green', replication => 'true');
is(substr(($old->until('ZE'))[0], -1), 'Z', 'a session begins under it');
put_certificate('second');
is((subject())[0], 'first.test', 'a file that was put in its place changes nothing yet');
ends('first');
is($proxy->console('RELOAD'), 'RELOAD', 'a reload');
is((subject())[0], 'second.test', '... does');
cmp_ok(ends('second'), '>', $end, '... later than the first one');
served($old, 'the session under the first one goes on');
PostgreSQL::Test::Utils::system_or_bail('cp', '-p', $certs->file('first.key'), $certs->file('proxy.key'));
($out, $err) = $proxy->console('RELOAD');
like($err, qr/the certificate does not belong to key file/, 'a certificate without its key is refused');
is((subject())[0], 'second.test', '... and the one that was there stays');
put_certificate('second');

# 4 idle
$proxy->{settings}{client_idle_timeout} = '700ms';
$proxy->write_conf;
is($proxy->console('RELOAD'), 'RELOAD', 'RELOAD for client_idle_timeout');
close $_->{socket} for $again, @green, @blue;
my $idle = wait_for('a place', sub { my ($c, $no) = begin('blue'); $no ? undef : $c });
my ($seen, $body) = $idle->until('E');
$why = { Walcrypt::Wire::fields($body) };
is($why->{C}, '57P05', 'a session without a command is ended after client_idle_timeout');
like($why->{M}, qr/terminating connection due to client_idle_timeout/, '... and told so');
my $lsn = $red->safe_psql('postgres', 'SELECT pg_current_wal_flush_lsn()');
my ($busy) = begin('blue');
$busy->send('Q', "START_REPLICATION PHYSICAL $lsn TIMELINE 1\0");
is(substr(($busy->until('WE'))[0], -1), 'W', 'one that streams');
select(undef, undef, undef, 1.5);
like($proxy->console('SHOW SESSIONS'), qr/\|blue\|[^|]*\|local\|stream\|/, '... is not idle');
is($proxy->stop, 0, 'the proxy stops in good order');
done_testing();
