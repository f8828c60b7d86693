# Goal: TLS with stock clients and with hostile ones. Certificates that do not fit are refused on both sides, nothing sent
# before the handshake is taken for the client's, and channel binding holds for each kind of certificate.
use strict;
use warnings;
use Walcrypt::Network;
use PostgreSQL::Test::Utils;
use PostgreSQL::Test::Cluster;
use IO::Socket::IP;
use IO::Socket::SSL;
use Digest::SHA qw(sha256);
use Test::More;
use Walcrypt;
use Walcrypt::Certificates;
use Walcrypt::Wire;
use Walcrypt::Scram;

my $pki = Walcrypt::Certificates->new(PostgreSQL::Test::Utils::tempdir() . '/pki');
$pki->authority($_) for 'ca', 'ca2';
my $here = 'DNS:localhost,IP:127.0.0.1,IP:10.9.9.1';
$pki->make('ec', ca => 'ca', cn => 'localhost', names => $here);
$pki->make('rsa384', ca => 'ca', cn => 'localhost', names => $here, key => 'rsa', sign => ['-sha384']);
$pki->make('elsewhere', ca => 'ca', cn => 'elsewhere.test', names => 'DNS:elsewhere.test');
$pki->authority('ca_pss', key => 'rsa-pss', sign => [ '-sha512' ]);
$pki->make('pss', ca => 'ca_pss', cn => 'localhost', names => $here, sign => [ '-sha512', '-sigopt', 'rsa_padding_mode:pss', '-sigopt', 'rsa_pss_saltlen:-1' ]);
$pki->authority('ca_ed', key => 'ed25519');
$pki->make('ed', ca => 'ca_ed', cn => 'localhost', names => $here, key => 'ed25519');
$pki->make($_, ca => 'ca', cn => $_) for 'blue', 'stranger', 'monitor', 'gone';
$pki->make('machine', ca => 'ca', cn => 'pg2.example.com');
$pki->make('two', ca => 'ca', cn => [ 'blue', 'stranger' ]);
$pki->make('forged', ca => 'ca2', cn => 'blue');
$pki->make('expired', ca => 'ca', cn => 'blue', days => -1);
$pki->revoke('ca', 'gone');

# a primary with TLS, too
my $red = Walcrypt::Node->new('red', own_host => 0);
$red->init(allows_streaming => 1, extra => ['-k']);
$red->append_conf('postgresql.conf', "password_encryption = 'scram-sha-256'\nlisten_addresses = '127.0.0.1,10.9.9.1'\nssl = on\nssl_ca_file = '" . $pki->file('ca.crt')
	. "'\nssl_cert_file = '" . $pki->file('ec.crt') . "'\nssl_key_file = '" . $pki->file('ec.key') . "'\n");
$red->append_conf('pg_hba.conf', "host all,replication all 127.0.0.1/32 trust\nhost all,replication all 10.9.9.1/32 trust\n");
$red->start;
$red->safe_psql('postgres', "CREATE ROLE $_ PASSWORD 'secret'") for 'blue', 'walcrypt_admin';
my %users = map { $_ => $red->safe_psql('postgres', "SELECT rolpassword FROM pg_authid WHERE rolname = '$_'") } 'blue', 'walcrypt_admin';
my $me = (getpwuid($<))[0];
my $upstream = "host=localhost hostaddr=10.9.9.1 port=" . $red->port . " user=$me sslmode=verify-full sslrootcert=" . $pki->file('ca.crt');
my $proxy = Walcrypt::Proxy->new(nodes => { red => { conninfo => $upstream, allow_clear => 'on' }, blue => { keyset => 'blue' } });

sub settings
{
	my (%set) = @_;
	$proxy->{settings} = { listen_addr => '0.0.0.0', auth_type => 'scram-sha-256', auth_file => "$proxy->{dir}/users", client_tls_sslmode => 'require', max_failed_logins => 0,
		client_tls_cert_file => $pki->file('ec.crt'), client_tls_key_file => $pki->file('ec.key'), client_login_timeout => '20s', %set };
	$proxy->write_conf;
	return;
}
sub again { my (%set) = @_; settings(%set); return $proxy->restart; }
sub reload { my (%set) = @_; settings(%set); my $at = $proxy->log_size; kill('HUP', $proxy->pid); wait_for_file_line($proxy->logfile, qr/reloaded; sessions/, $at); return; }
$proxy->write_users(%users);
settings();
$proxy->key_init('blue');
$proxy->start;

$ENV{PGPASSWORD} = 'secret';
sub run_it
{
	my (@command) = @_;
	my ($out, $err) = ('', '');
	my $ok = IPC::Run::run(\@command, '<', \undef, '>', \$out, '2>', \$err);
	return ($ok, $out, $err);
}
my $console = 'user=walcrypt_admin dbname=walcrypt';
my $full = 'sslmode=verify-full sslrootcert=' . $pki->file('ca.crt');
sub tcp { my ($options, $host) = @_; return 'host=' . ($host // 'localhost hostaddr=127.0.0.1') . " port=$proxy->{port} $options"; }
sub version { my ($options, $host) = @_; return run_it('psql', '-wXAt', '-d', tcp("$console $options", $host), '-c', 'SHOW VERSION'); }
sub lets_in { my ($what, @how) = @_; my (undef, $out, $err) = version(@how); return like($out, qr/^walcrypt-proxy /, $what) || diag($err); }
sub refuses { my ($what, $why, @how) = @_; my ($ok, $out, $err) = version(@how); ok(!$ok && $out eq '', $what); return like($err, $why, "$what: why") || diag($proxy->log); }

# 1 stock clients
lets_in('verify-full', $full);
lets_in('with channel binding', "$full channel_binding=require");
lets_in('TLS 1.2', "$full ssl_max_protocol_version=TLSv1.2 channel_binding=require");
lets_in('over the network', "$full channel_binding=require", 'localhost hostaddr=10.9.9.1');
refuses('no TLS', qr/TLS is required/, 'sslmode=disable');
refuses('no TLS, over the network', qr/TLS is required/, 'sslmode=disable', '10.9.9.1');
refuses('another authority', qr/certificate verify failed/, 'sslmode=verify-full sslrootcert=' . $pki->file('ca2.crt'));
refuses('a certificate for another host', qr/does not match host name "elsewhere.test"/, $full, 'elsewhere.test hostaddr=127.0.0.1');
refuses('a wrong password', qr/password authentication failed/, "$full password=x");
like((run_it('psql', '-XAt', '-d', $proxy->connstr('walcrypt_admin') . ' dbname=walcrypt', '-c', 'SHOW VERSION'))[1], qr/^walcrypt/, 'a Unix socket does without');
{
	local $ENV{PGGSSENCMODE} = 'prefer';
	lets_in('GSS is declined', $full);
}
my $dir = PostgreSQL::Test::Utils::tempdir();
my $as_blue = tcp("user=blue $full channel_binding=require");
{
	my ($ok, $out, $err) = run_it('pg_basebackup', '-D', "$dir/b", '-d', $as_blue, '--no-sync', '-X', 'stream', '--checkpoint=fast');
	ok($ok, 'pg_basebackup, TLS on both sides') or diag($err);
	my ($verified, $text, $said) = run_it('pg_verifybackup', '-n', "$dir/b");
	ok($verified, 'and nothing is missing') or diag($said);
}

# 2 a standby
my $blue = Walcrypt::Node->new('blue');
{
	no warnings 'redefine';
	local *Walcrypt::Proxy::connstr = sub { return $as_blue };
	$blue->init_from_proxy($proxy, 'blue');
}
$blue->append_conf('postgresql.auto.conf', "primary_conninfo = '$as_blue application_name=blue password=secret'\n");
$blue->start;
$red->safe_psql('postgres', 'CREATE TABLE t AS SELECT n, repeat(md5(n::text), 20) AS x FROM generate_series(1, 20000) AS n');
$red->wait_for_catchup($blue, 'replay');
is($blue->safe_psql('postgres', 'SELECT sum(n) FROM t'), '200010000', 'a standby streams through TLS, SCRAM and channel binding');

# 3 what a hostile client does
sub asks
{
	my (%how) = @_;
	my $c = Walcrypt::Wire->connect_tcp($proxy);
	$c->packet(pack('N', 80877103));
	return $c;
}
sub with_tls
{
	my (%how) = @_;
	my $c = asks();
	my ($answer, $check) = ($c->bytes(1), delete $how{check});
	is($answer, 'S', 'TLS is agreed on') if $check;
	return $c->start_tls(%how) ? $c : undef;
}
# openssl's client, which takes commands, and what it has said so far
my ($said_out, $said_err);
sub said { return "$said_out$said_err"; }
sub s_client
{
	my ($port, @options) = @_;
	my $in = ($said_out = $said_err = '');
	my $run = IPC::Run::start([ 'openssl', 's_client', '-connect', "127.0.0.1:$port", '-alpn', 'postgresql', '-msg', @options ], '<', \$in, '>', \$said_out, '2>', \$said_err);
	wait_for('the handshake', sub { $run->pump_nb; $said_out =~ /Verify return code/ });
	return ($run, \$in);
}
sub renegotiates
{
	my ($port) = @_;
	my ($run, $in) = s_client($port, '-tls1_2');
	$$in .= "R\n";
	my $end = wait_for('an answer', sub { $run->pump_nb; said() =~ /RENEGOTIATING/ && (said() =~ /SSL routines:[^\n]*:no renegotiation/ ? 'refused' : (() = $said_out =~ /<<< TLS 1\.2, Handshake \[[^]]*\], Finished/g) == 2 ? 'done' : 0) });
	$run->kill_kill;
	return $end;
}
my $query = pack('N', 0x30000) . "user\0walcrypt_admin\0database\0walcrypt\0\0";
{
	my $offset = $proxy->log_size;
	my $c = Walcrypt::Wire->connect_tcp($proxy);
	$c->raw(pack('NN', 8, 80877103) . pack('N', 4 + length $query) . $query);
	my ($type, $body) = $c->message;
	is({ Walcrypt::Wire::fields($body) }->{M}, 'received unencrypted data after the request for TLS', 'bytes sent before the handshake are refused');
	ok($c->closed, 'and the connection ends');
	# the same a moment later is the handshake's business: it is no handshake
	$c = asks();
	$c->bytes(1);
	$c->packet($query);
	ok($c->closed, 'a startup packet instead of a handshake ends it');
	wait_for_file_line($proxy->logfile, qr/the TLS handshake failed: /, $offset);
	pass('with a reason in the log');
	$c = asks();
	$c->bytes(1);
	$c->raw("\x16\x03\x01\x02\x00" . "\xaa" x 512);
	ok($c->closed, 'a broken handshake ends it');
	reload(client_login_timeout => '2s');
	$c = asks();
	$c->bytes(1);
	$c->raw("\x16\x03");
	ok($c->closed, 'a handshake that stops half-way ends after client_login_timeout');
	reload();
	$c = with_tls(check => 1);
	$c->packet(pack('N', 80877103));
	($type, $body) = $c->message;
	is({ Walcrypt::Wire::fields($body) }->{M}, 'TLS is there already', 'TLS in TLS is refused');
	$c = with_tls();
	$c->raw("\x16\x03\x01\x02\x00");
	ok($c->closed, 'a handshake in TLS is refused');
	$c = with_tls();
	$c->packet($query);
	$c->raw(pack('N', 4 + length $query) . $query);
	my ($seen) = $c->until('E');
	like($seen, qr/^R?E$/, 'a second startup packet is refused');
}
ok(!with_tls(SSL_alpn_protocols => ['http/1.1']), 'another protocol by ALPN is refused');
{
	# TLS 1.1, which OpenSSL at its usual level of security does not even offer: both sides are told to think nothing of that
	my @weak = (SSL_cipher_list => 'ALL:@SECLEVEL=0');
	reload(client_tls_ciphers => 'ALL:@SECLEVEL=0');
	my $c = with_tls(@weak, SSL_version => 'TLSv1_2');
	is($c && $c->{socket}->get_sslversion, 'TLSv1_2', 'TLS 1.2 is taken');
	ok(!with_tls(@weak, SSL_version => 'TLSv1_1'), 'TLS 1.1 is refused');
	# the control: a server that allows it
	my $port = PostgreSQL::Test::Cluster::get_free_port();
	my ($never, $out) = ('', '');
	my $server = IPC::Run::start([ 'openssl', 's_server', '-quiet', '-tls1_1', '-cipher', 'ALL:@SECLEVEL=0', '-accept', "127.0.0.1:$port", '-cert', $pki->file('ec.crt'), '-key', $pki->file('ec.key') ], '<', \$never, '>&', \$out);
	my $there = wait_for('openssl s_server', sub { IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port) });
	ok(IO::Socket::SSL->start_SSL($there, SSL_verify_mode => SSL_VERIFY_NONE, @weak, SSL_version => 'TLSv1_1'), '(openssl would take it)') or diag($IO::Socket::SSL::SSL_ERROR);
	$server->kill_kill;
	reload();
}
{
	my $c = with_tls(SSL_alpn_protocols => ['postgresql']);
	is($c->{socket}->alpn_selected, 'postgresql', 'ALPN is answered');
	# direct TLS, as sslnegotiation=direct does it
	$c = Walcrypt::Wire->connect_tcp($proxy);
	ok($c->start_tls(SSL_alpn_protocols => ['postgresql']), 'TLS without a request for it');
	$c->packet($query);
	is(join(' ', Walcrypt::Scram::offered($c)), 'SCRAM-SHA-256-PLUS SCRAM-SHA-256', 'and all goes on as usual');
	$c = Walcrypt::Wire->connect_tcp($proxy);
	$c->start_tls;
	my ($type, $body) = $c->message;
	like({ Walcrypt::Wire::fields($body) }->{M}, qr/ALPN/, 'direct TLS without ALPN is refused');
	# sessions are not resumed, keys not renegotiated
	my ($out, $err) = ('', '');
	IPC::Run::run([ 'openssl', 's_client', '-connect', "127.0.0.1:$proxy->{port}", '-alpn', 'postgresql', '-tls1_2', '-reconnect' ], '<', \"", '>', \$out, '2>', \$err);
	unlike($out, qr/^Reused/m, 'no session is resumed');
	like($out, qr/Secure Renegotiation IS supported|TLSv1.2/, 'TLS 1.2 was agreed on');
	like($out, qr/Compression: NONE/, 'without compression');
	is(renegotiates($proxy->port), 'refused', 'renegotiation is refused');
	# the control: a server that allows it
	my $port = PostgreSQL::Test::Cluster::get_free_port();
	my $never = '';
	my $server = IPC::Run::start([ 'openssl', 's_server', '-quiet', '-accept', "127.0.0.1:$port", '-cert', $pki->file('ec.crt'), '-key', $pki->file('ec.key'), '-alpn', 'postgresql', '-client_renegotiation' ], '<', \$never, '>', \$out, '2>', \$err);
	wait_for('openssl s_server', sub { IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port) });
	is(renegotiates($port), 'done', '(openssl would, if the server let it)');
	$server->kill_kill;
	# new keys in TLS 1.3 are no renegotiation: the session goes on
	my ($client, $in) = s_client($proxy->port, '-tls1_3');
	for my $n (1 .. 5) {
		$$in .= "K\n";
		wait_for("key update $n", sub { $client->pump_nb; (() = said() =~ />>> TLS 1\.3, Handshake \[[^]]*\], KeyUpdate/g) == $n });
	}
	$$in .= pack('N', 4 + length $query) . $query;
	wait_for('an answer', sub { $client->pump_nb; said() =~ /SCRAM-SHA-256-PLUS/ });
	like(said(), qr/<<< TLS 1\.3, Handshake \[[^]]*\], KeyUpdate/, 'new keys in TLS 1.3: answered with new keys, and the session goes on');
	$client->kill_kill;
	$client = undef;
	# a refusal of encryption by GSS is no end: TLS, or nothing, may follow
	my $c2 = Walcrypt::Wire->connect_tcp($proxy);
	$c2->packet(pack('N', 80877104));
	is($c2->bytes(1), 'N', 'encryption by GSS is declined');
	$c2->packet(pack('N', 80877103));
	is($c2->bytes(1), 'S', '... then TLS is agreed on');
	ok($c2->start_tls, '... and stands');
	$c2->packet($query);
	is(join(' ', Walcrypt::Scram::offered($c2)), 'SCRAM-SHA-256-PLUS SCRAM-SHA-256', '... as if nothing had been asked before');
	$c2 = Walcrypt::Wire->connect_tcp($proxy);
	$c2->packet(pack('N', 80877104));
	is($c2->bytes(1), 'N', 'encryption by GSS is declined');
	$c2->packet($query);
	(undef, $body) = $c2->until('E');
	is({ Walcrypt::Wire::fields($body) }->{M}, 'TLS is required', '... and no way around TLS');
}

# channel binding: who sits in between with another certificate, or takes PLUS off the list, gets nowhere
my $hash = sha256(Walcrypt::Certificates::openssl('x509', '-in', $pki->file('ec.crt'), '-outform', 'DER'));
my $plus = 'p=tls-server-end-point,,';
for my $case (
	[ 'the right binding', 'SCRAM-SHA-256-PLUS', $plus, $hash, undef ], [ 'no binding, and no claim', 'SCRAM-SHA-256', 'n,,', '', undef ],
	[ 'a downgrade: y though PLUS was offered', 'SCRAM-SHA-256', 'y,,', '', 'SCRAM channel binding negotiation error' ],
	[ 'another certificate\'s hash', 'SCRAM-SHA-256-PLUS', $plus, 'x' x 32, 'SCRAM channel binding check failed' ],
	[ 'no hash', 'SCRAM-SHA-256-PLUS', $plus, '', 'SCRAM channel binding check failed' ], [ 'PLUS and n', 'SCRAM-SHA-256-PLUS', 'n,,', '', 'malformed SCRAM message' ],
	[ 'p without PLUS', 'SCRAM-SHA-256', $plus, $hash, 'malformed SCRAM message' ], [ 'tls-unique', 'SCRAM-SHA-256-PLUS', 'p=tls-unique,,', 'x' x 12, 'SCRAM channel binding negotiation error' ]) {
	my ($what, $mechanism, $gs2, $binding, $refused) = @$case;
	my $c = with_tls();
	$c->packet($query);
	Walcrypt::Scram::offered($c);
	my $begun = Walcrypt::Scram::begin($c, mechanism => $mechanism, gs2 => $gs2);
	my $error = $begun->{error};
	if (!$error) {
		my ($without, $proof) = Walcrypt::Scram::answer($begun, 'secret', $binding);
		$c->send('p', "$without,p=$proof");
		(my $text, $error) = Walcrypt::Scram::step($c);
		$error->{M} = undef if defined $text;
	}
	is($error->{M}, $refused, $what);
}

# 4 kinds of certificates, and that each is loaded by a reload that keeps the sessions
my $standby = $blue->safe_psql('postgres', 'SELECT pid FROM pg_stat_wal_receiver');
for my $case ([ 'rsa384', 'ca', 1 ], [ 'pss', 'ca_pss', 1 ], [ 'ed', 'ca_ed', 0 ], [ 'ec', 'ca', 1 ]) {
	my ($name, $ca, $binds) = @$case;
	my $offset = $proxy->log_size;
	settings(client_tls_cert_file => $pki->file("$name.crt"), client_tls_key_file => $pki->file("$name.key"));
	kill('HUP', $proxy->pid);
	wait_for_file_line($proxy->logfile, qr/reloaded; sessions/, $offset);
	my $how = 'sslmode=verify-full sslrootcert=' . $pki->file("$ca.crt");
	lets_in("certificate $name, after a reload", $how);
	$binds ? lets_in("certificate $name binds", "$how channel_binding=require") : refuses("certificate $name has no hash to bind to", qr/channel binding (?:is )?required/, "$how channel_binding=require");
}
is($blue->safe_psql('postgres', 'SELECT pid FROM pg_stat_wal_receiver'), $standby, 'the standby\'s connection has outlived them all');
{
	my $offset = $proxy->log_size;
	for my $case ([ 'a key of another certificate', 'rsa384', qr/does not belong to key file/ ], [ 'no file', 'nothing', qr/could not open key file/ ], [ 'no key', 'ec.crt', undef ]) {
		my ($what, $name, $why) = @$case;
		settings(client_tls_key_file => $pki->file($name =~ /crt/ ? $name : "$name.key"));
		$offset = $proxy->log_size;
		kill('HUP', $proxy->pid);
		wait_for_file_line($proxy->logfile, $why // qr/the configuration stays as it was: .*key/, $offset);
		lets_in("$what at a reload: the old one stays", $full);
	}
	chmod 0640, $pki->file('ec.key');
	settings();
	$offset = $proxy->log_size;
	kill('HUP', $proxy->pid);
	wait_for_file_line($proxy->logfile, qr/key file ".*" is open to others: mode 0640/, $offset);
	pass('a key that others may read is refused');
	chmod 0600, $pki->file('ec.key');
	again(client_tls_cert_file => $pki->file('elsewhere.crt'), client_tls_key_file => $pki->file('elsewhere.key'));
	refuses('a server with a certificate for another host', qr/server certificate for "elsewhere.test".* does not match host name "localhost"/, $full);
}

# 5 certificates of clients
my @ca = (client_tls_ca_file => $pki->file('ca.crt'), client_tls_crl_file => $pki->file('ca.crl'));
sub cert { my ($name) = @_; return "$full sslcert=" . $pki->file("$name.crt") . ' sslkey=' . $pki->file("$name.key"); }
again(@ca, client_tls_sslmode => 'verify-ca');
lets_in('verify-ca: any name will do', cert('stranger'));
refuses('verify-ca: no certificate', qr/requires a valid client certificate/, "$full sslcert=/nonexistent");
for my $case ([ 'forged', qr/unknown ca|unknown CA/ ], [ 'expired', qr/certificate expired/ ], [ 'gone', qr/certificate revoked/ ]) {
	my ($name, $why) = @$case;
	refuses("a certificate that is $name", $why, cert($name));
}
refuses('a certificate and a wrong password', qr/password authentication failed/, cert('stranger') . ' password=x');
again(@ca, client_tls_sslmode => 'verify-full');
refuses('verify-full: another name', qr/certificate authentication failed for user "walcrypt_admin"/, cert('stranger'));
$proxy->{nodes}{blue}{client_cn} = 'pg2.example.com';
$proxy->{nodes}{store} = { keyset => 'blue', profile => 1, client_cn => 'pg2.example.com' };
$proxy->{nodes}{red}{allow_clear} = 'off';
again(@ca, client_tls_sslmode => 'verify-full', auth_type => 'cert', auth_file => undef, stats_users => 'monitor');
delete $ENV{PGPASSWORD};
sub receives { my ($name, $user) = @_; return run_it('pg_receivewal', '-w', '-D', $dir, '-d', tcp('user=' . ($user // 'blue') . ' ' . cert($name)), '--create-slot', '--if-not-exists', '-S', 'x'); }
for my $name ('blue', 'machine') {
	my ($ok, undef, $err) = receives($name);
	ok($ok, "auth_type = cert: certificate $name is blue's") or diag($err);
}
for my $case ([ 'stranger', qr/certificate authentication failed for user "blue"/ ], [ 'two', qr/requires a valid client certificate/ ], [ 'forged', qr/unknown ca/i ], [ 'gone', qr/certificate revoked/ ]) {
	my ($name, $why) = @$case;
	my ($ok, undef, $err) = receives($name);
	like($err, $why, "auth_type = cert: certificate $name is not");
}
{
	my ($ok, undef, $err) = receives('machine', 'store');
	ok($ok, 'certificate machine is that of profile store, too') or diag($err);
	(undef, undef, $err) = receives('blue', 'store');
	like($err, qr/certificate authentication failed for user "store"/, '... certificate blue is not');
}
delete $proxy->{nodes}{store};
like((run_it('psql', '-wXAt', '-d', tcp('user=monitor dbname=walcrypt ' . cert('monitor')), '-c', 'SHOW VERSION'))[1], qr/^walcrypt/, 'a user of the console by certificate');
like((run_it('psql', '-wXAt', '-d', tcp('user=walcrypt_admin dbname=walcrypt ' . cert('monitor')), '-c', 'SHOW VERSION'))[2], qr/certificate authentication failed/, 'and not another one');
like((run_it('psql', '-wXAt', '-d', tcp('user=nobody dbname=walcrypt ' . cert('monitor')), '-c', 'SHOW VERSION'))[2], qr/certificate authentication failed for user "nobody"/, 'nor one who is not there');
like((run_it('psql', '-wXAt', '-d', $proxy->connstr('monitor') . ' dbname=walcrypt', '-c', 'SHOW VERSION'))[2], qr/requires a valid client certificate/, 'there are none through a Unix socket');
$ENV{PGPASSWORD} = 'secret';

# 6 nothing leaves over a network without TLS, unless it is said by name
again(client_tls_sslmode => 'prefer');
sub backup { my ($options, $host) = @_; return run_it('pg_receivewal', '-D', $dir, '-d', tcp("user=blue $options", $host), '--create-slot', '--if-not-exists', '-S', 'x'); }
ok((backup('sslmode=disable'))[0], 'loopback does without TLS');
my (undef, undef, $err) = backup('sslmode=disable', '10.9.9.1');
like($err, qr/a connection over a network needs TLS/, 'a network does not');
(undef, undef, $err) = version('sslmode=disable', '10.9.9.1');
like($err, qr/a connection over a network needs TLS/, 'nor for the console');
ok((backup('sslmode=prefer', '10.9.9.1'))[0], 'with TLS it works');
$proxy->{nodes}{blue}{allow_plaintext} = 'on';
again(client_tls_sslmode => 'prefer');
ok((backup('sslmode=disable', '10.9.9.1'))[0], 'allow_plaintext = on says it by name');
delete $proxy->{nodes}{blue}{allow_plaintext};
$proxy->{nodes}{red}{conninfo} = 'host=10.9.9.1 port=' . $red->port . " user=$me sslmode=disable";
again();
(undef, undef, $err) = backup($full);
like($err, qr/the connection to upstream "red" has no TLS/, 'the same for an upstream');
$proxy->{nodes}{red}{allow_plaintext} = 'on';
again();
ok((backup($full))[0], 'and the same way out');
$proxy->{nodes}{red} = { conninfo => $upstream =~ s/host=localhost/host=elsewhere.test/r };
again();
(undef, undef, $err) = backup($full);
like($err, qr/could not connect to upstream|does not match host name/, 'an upstream whose certificate is for another host is refused');
like($err, qr/elsewhere.test/, 'by its name');
$proxy->{nodes}{red} = { conninfo => $upstream };

# 7 who may come from where, ask for what, through which door
$proxy->{nodes}{blue} = { keyset => 'blue', allow_addr => '10.0.0.0/8, local', allow_commands => 'stream' };
my $door = PostgreSQL::Test::Cluster::get_free_port();
$proxy->{listens}{blue} = { listen_addr => '0.0.0.0', listen_port => $door, users => 'walcrypt_admin' };
again();
(undef, undef, $err) = backup($full);
like($err, qr/password authentication failed/, 'allow_addr: not from 127.0.0.1');
like($proxy->log, qr/"blue" may not connect from 127.0.0.1:\d+/, 'the log has the reason');
(undef, undef, $err) = backup($full, 'localhost hostaddr=10.9.9.1');
like($err, qr/"blue" may not use CREATE_REPLICATION_SLOT/, 'from 10.9.9.1, but allow_commands has no slots');
(undef, undef, $err) = run_it('pg_basebackup', '-D', "$dir/c", '-d', $proxy->connstr('blue'));
like($err, qr/"blue" may not use BASE_BACKUP/, 'nor backups, through a Unix socket');
my ($ok) = run_it('pg_receivewal', '-D', $dir, '-d', $proxy->connstr('blue'), '--endpos', '0/1', '--no-loop');
ok($ok, 'but streams');
(undef, undef, $err) = run_it('pg_receivewal', '-D', $dir, '-d', "host=localhost hostaddr=10.9.9.1 port=$door user=walcrypt_admin $full", '--create-slot', '-S', 'y');
like($err, qr/"blue" may not use CREATE_REPLICATION_SLOT/, '[listen blue]: its user is taken for blue');
(undef, undef, $err) = run_it('pg_receivewal', '-D', $dir, '-d', "host=localhost hostaddr=10.9.9.1 port=$door user=blue $full", '--create-slot', '-S', 'y');
like($err, qr/password authentication failed for user "blue"/, 'another one is not');
like((run_it('psql', '-XAt', '-d', "host=localhost hostaddr=10.9.9.1 port=$door user=walcrypt_admin dbname=walcrypt $full", '-c', 'SHOW VERSION'))[2], qr/takes replication connections only/, 'nor is the console behind that door');
delete $proxy->{listens}{blue}{users};
again();
(undef, undef, $err) = run_it('pg_receivewal', '-D', $dir, '-d', "host=localhost hostaddr=10.9.9.1 port=$door user=walcrypt_admin $full", '--create-slot', '-S', 'y');
like($err, qr/password authentication failed for user "walcrypt_admin"/, '[listen blue] without users: nobody');
(undef, undef, $err) = run_it('pg_receivewal', '-D', $dir, '-d', "host=localhost hostaddr=10.9.9.1 port=$door user=blue $full", '--create-slot', '-S', 'y');
like($err, qr/"blue" may not use CREATE_REPLICATION_SLOT/, '... but blue');

# IPv6, where IPv4 comes in too
SKIP: {
	skip 'there is no IPv6 here', 6 unless IO::Socket::IP->new(LocalHost => '::1', Listen => 1);
	delete $proxy->{listens}{blue};
	$proxy->{nodes}{blue} = { keyset => 'blue', allow_addr => '::1, 127.0.0.0/8', allow_commands => 'slots' };
	again(listen_addr => '::');
	ok((backup($full, 'localhost hostaddr=::1'))[0], 'listen_addr = ::, from ::1');
	ok(!(backup($full, 'localhost hostaddr=127.0.0.1'))[0], '... is IPv6 alone');
	again(listen_addr => '*');
	ok((backup($full, "localhost hostaddr=$_"))[0], "listen_addr = *, from $_") for '::1', '127.0.0.1';
	(undef, undef, $err) = backup($full, 'localhost hostaddr=10.9.9.1');
	like($err, qr/password authentication failed/, '... allow_addr: not from 10.9.9.1');
	$proxy->{nodes}{blue}{allow_addr} = '::2';
	again(listen_addr => '*');
	(undef, undef, $err) = backup($full, 'localhost hostaddr=::1');
	like($err, qr/password authentication failed/, '... allow_addr: not from ::1');
}
# on all addresses: where there is no Unix socket walcrypt-ctl goes by a name that a certificate can have
again(listen_addr => '*');
{
	my $tcp_only = "$proxy->{dir}/tcp_only.ini";
	append_to_file($tcp_only, slurp_file($proxy->conf) =~ s/^unix_socket_dir.*\n//mr);
	chmod 0600, $tcp_only;
	local @ENV{qw(PGSSLMODE PGSSLROOTCERT)} = ('verify-full', $pki->file('ca.crt'));
	my ($rc, $out, $said) = ctl_output('status', '--config', $tcp_only, '-U', 'walcrypt_admin');
	is($rc, 0, 'listen_addr = *, to walcrypt-ctl') or diag($said);
}
is($proxy->stop, 0, 'it stops in good order');
done_testing();
