# Goal: SCRAM-SHA-256 against PostgreSQL's own verifiers: stock clients get in with the right password and only with it; a
# stranger learns nothing about names; each attack on the exchange is refused, and the proxy lives on.
use strict;
use warnings;
use utf8;
use Encode qw(encode);
use PostgreSQL::Test::Utils;
use PostgreSQL::Test::Cluster;
use Test::More;
use Walcrypt;
use Walcrypt::Wire;
use Walcrypt::Scram;

my $red = Walcrypt::Node->new('red');
$red->init(allows_streaming => 1, extra => ['-k']);
$red->append_conf('postgresql.conf', "password_encryption = 'scram-sha-256'\n");
$red->start;

# verifiers as the server makes them; one password needs SASLprep (a soft hyphen goes, a Roman numeral becomes letters)
my $odd = encode('UTF-8', "I\x{AD}X\x{2168}ª");
my %passwords = (blue => 'blue, secret', walcrypt_admin => 'admin "secret"', odd => $odd);
for my $user (sort keys %passwords) {
	my $quoted = $passwords{$user} =~ s/'/''/gr;
	$red->safe_psql('postgres', "CREATE ROLE $user PASSWORD '$quoted'");
}
my %users = map { $_ => $red->safe_psql('postgres', "SELECT rolpassword FROM pg_authid WHERE rolname = '$_'") } keys %passwords;
my $proxy = Walcrypt::Proxy->new(
	nodes => { red => { conninfo => $red->connstr_for_proxy, allow_clear => 'on' }, blue => { keyset => 'blue' }, odd => { keyset => 'blue' } },
	settings => { auth_type => 'scram-sha-256', client_login_timeout => '20s', max_failed_logins => 0 });
$proxy->{settings}{auth_file} = $proxy->write_users(%users);
$proxy->write_conf;
$proxy->key_init('blue');
$proxy->start;

sub run_as
{
	my ($password, @command) = @_;
	local $ENV{PGPASSWORD} = $password;
	local $ENV{PGCLIENTENCODING} = 'UTF8';
	my ($out, $err) = ('', '');
	my $ok = IPC::Run::run(\@command, '<', \undef, '>', \$out, '2>', \$err);
	return ($ok, $out, $err);
}

# 1 stock clients
for my $where ($proxy->connstr('walcrypt_admin'), $proxy->tcp('walcrypt_admin')) {
	my ($ok, $out, $err) = run_as($passwords{walcrypt_admin}, 'psql', '-XAt', '-d', "$where dbname=walcrypt", '-c', 'SHOW VERSION');
	like($out, qr/^walcrypt-proxy /, "psql gets in with the password: $where") or diag($err);
	($ok, $out, $err) = run_as('wrong', 'psql', '-XAt', '-d', "$where dbname=walcrypt", '-c', 'SHOW VERSION');
	ok(!$ok, 'and not with another');
	like($err, qr/password authentication failed for user "walcrypt_admin"/, 'which is said in PostgreSQL\'s words');
	($ok, $out, $err) = run_as('', 'psql', '-wXAt', '-d', "$where dbname=walcrypt", '-c', 'SHOW VERSION');
	like($err, qr/no password supplied/, 'nor without one');
}
my $dir = PostgreSQL::Test::Utils::tempdir();
{
	my ($ok, $out, $err) = run_as($passwords{blue}, 'pg_basebackup', '-D', "$dir/b", '-d', $proxy->connstr('blue'), '--no-sync', '-X', 'stream');
	ok($ok, 'pg_basebackup with two connections') or diag($err);
	is(scalar files_containing('blue, secret', $proxy->keystore, "$dir/b"), 0, 'the password stands in no file');
	($ok, $out, $err) = run_as($odd, 'pg_receivewal', '-D', $dir, '-d', $proxy->connstr('odd'), '--create-slot', '-S', 'odd');
	ok($ok, 'a password that SASLprep changes') or diag($err);
	($ok) = run_as("IX" . encode('UTF-8', 'ⅸ') . 'a', 'pg_receivewal', '-D', $dir, '-d', $proxy->connstr('odd'), '--drop-slot', '-S', 'odd');
	ok(!$ok, 'case counts in it');
	($ok, $out, $err) = run_as('IXIXa', 'pg_receivewal', '-D', $dir, '-d', $proxy->connstr('odd'), '--drop-slot', '-S', 'odd');
	ok($ok, 'its normal form is the same password') or diag($err);
	# channel binding is for TLS
	($ok, $out, $err) = run_as($passwords{walcrypt_admin}, 'psql', '-XAt', '-d', $proxy->tcp('walcrypt_admin') . ' dbname=walcrypt channel_binding=require', '-c', 'SHOW VERSION');
	like($err, qr/channel binding (?:is )?required/, 'channel_binding=require without TLS: the client refuses');
}

# a walreceiver
my $blue = Walcrypt::Node->new('blue');
{
	local $ENV{PGPASSWORD} = $passwords{blue};
	$blue->init_from_proxy($proxy, 'blue');
	$blue->append_conf('postgresql.auto.conf', "primary_conninfo = '" . $proxy->connstr('blue') . " application_name=blue password=''blue, secret'''\n");
}
$blue->start;
$red->safe_psql('postgres', 'CREATE TABLE t AS SELECT generate_series(1, 1000) AS n');
$red->wait_for_catchup($blue, 'replay');
is($blue->safe_psql('postgres', 'SELECT sum(n) FROM t'), '500500', 'a standby streams');

# 2 names cannot be told from each other
sub client
{
	my (%params) = @_;
	my $c = Walcrypt::Wire->connect($proxy);
	$c->startup(user => 'walcrypt_admin', database => 'walcrypt', %params);
	return $c;
}
my %look;
for my $user ('blue', 'nobody', 'nobody2', 'red', 'walcrypt_admin') {
	for my $for ([ replication => 'true' ], [ database => 'walcrypt' ]) {
		my $c = Walcrypt::Wire->connect($proxy);
		$c->startup(user => $user, @$for);
		my @offered = Walcrypt::Scram::offered($c);
		my $begun = Walcrypt::Scram::begin($c);
		my ($without, $proof) = Walcrypt::Scram::answer($begun, 'guess');
		$c->send('p', "$without,p=$proof");
		my (undef, $error) = Walcrypt::Scram::step($c);
		push @{ $look{shape} }, join(' ', "@offered", $begun->{i}, length $begun->{s}, length $begun->{r}, $error->{C}, $error->{M} =~ s/$user/USER/r, $error->{D} // '', $error->{H} // '');
		push @{ $look{salt}{$user} }, $begun->{s};
	}
}
is(scalar(keys %{ { map { $_ => 1 } @{ $look{shape} } } }), 1, 'known and unknown users, nodes, users of the console: all look alike') or diag(explain($look{shape}));
like($look{shape}[0], qr/^SCRAM-SHA-256 4096 24 \d+ 28P01 password authentication failed for user "USER" /, 'and as in PostgreSQL');
is($look{salt}{nobody}[0], $look{salt}{nobody}[1], 'the salt of a user who is not there is the same again');
isnt($look{salt}{nobody}[0], $look{salt}{nobody2}[0], 'and not that of another one');
$proxy->restart;
{
	my $c = Walcrypt::Wire->connect($proxy);
	$c->startup(user => 'nobody', replication => 'true');
	Walcrypt::Scram::offered($c);
	is(Walcrypt::Scram::begin($c)->{s}, $look{salt}{nobody}[0], 'also after a restart');
}
like($proxy->log, qr/"nobody" from local is refused: there is no node or profile "nobody"/, 'the log has the reason');
{
	# the right password, but not for this
	my $offset = $proxy->log_size;
	my ($ok, undef, $err) = run_as($passwords{walcrypt_admin}, 'pg_receivewal', '-D', $dir, '-d', $proxy->connstr('walcrypt_admin'), '--create-slot', '-S', 'x');
	like($err, qr/password authentication failed for user "walcrypt_admin"/, 'the console\'s user is no node');
	($ok, undef, $err) = run_as($passwords{blue}, 'psql', '-X', '-d', $proxy->connstr('blue') . ' dbname=walcrypt', '-c', 'SHOW VERSION');
	like($err, qr/password authentication failed for user "blue"/, 'and a node is no user of the console');
	like($proxy->log($offset), qr/"blue" from local is refused: user "blue" may not use walcrypt's console/, 'the log has the reason');
	($ok, undef, $err) = run_as('x', 'psql', '-X', '-d', $proxy->connstr('blue') . ' dbname=postgres', '-c', 'SELECT 1');
	like($err, qr/takes replication connections only/, 'a psql that connects by mistake is told what this is');
}

# 3 attacks
sub lives { my ($what) = @_; ok(kill(0, $proxy->pid) && $proxy->log !~ /panic|AddressSanitizer/i, "$what: the proxy lives on"); return; }
my @finals = (
	[ 'no proof', sub { "$_[0]" }, '08P01' ], [ 'an empty proof', sub { "$_[0],p=" }, '08P01' ], [ 'half a proof', sub { "$_[0],p=" . substr($_[1], 0, 20) }, '08P01' ],
	[ 'a proof of zeros', sub { "$_[0],p=" . Walcrypt::Scram::b64("\0" x 32) }, '28P01' ], [ 'something behind the proof', sub { "$_[0],p=$_[1],x=y" }, '08P01' ],
	[ 'another nonce', sub { my $t = $_[0]; $t =~ s/r=client/r=Client/; "$t,p=$_[1]" }, '08P01' ], [ 'no channel binding attribute', sub { my $t = $_[0]; $t =~ s/^c=biws,//; "$t,p=$_[1]" }, '08P01' ],
	[ 'another header', sub { my $t = $_[0]; $t =~ s/^c=biws/c=eSws/; "$t,p=$_[1]" }, '08P01' ], [ 'nothing', sub { '' }, '08P01' ],
	[ 'a message of 1025 bytes', sub { 'x' x 1025 }, '08P01' ], [ 'a message of 1 MB', sub { 'x' x (1 << 20) }, '08P01' ], [ 'a zero byte', sub { "$_[0]\0,p=$_[1]" }, '08P01' ]);
for my $case (@finals) {
	my ($what, $code, $sqlstate) = @$case;
	my $c = client();
	Walcrypt::Scram::offered($c);
	my $begun = Walcrypt::Scram::begin($c);
	$c->send('p', $code->(Walcrypt::Scram::answer($begun, $passwords{walcrypt_admin})));
	my (undef, $error) = Walcrypt::Scram::step($c);
	is($error->{C}, $sqlstate, "$what: refused with $sqlstate");
	ok($c->closed, "$what: and closed");
	lives($what);
}
{
	# what was said in one connection is worth nothing in another
	my $c = client();
	Walcrypt::Scram::offered($c);
	my ($without, $proof) = Walcrypt::Scram::answer(Walcrypt::Scram::begin($c), $passwords{walcrypt_admin});
	my $d = client();
	Walcrypt::Scram::offered($d);
	Walcrypt::Scram::begin($d);
	$d->send('p', "$without,p=$proof");
	my (undef, $error) = Walcrypt::Scram::step($d);
	is($error->{C}, '08P01', 'a replayed answer: refused');
	$c->send('p', "$without,p=$proof");
	my ($text) = Walcrypt::Scram::step($c);
	like($text, qr/^v=/, 'where it belongs it is right');
	my ($seen) = $c->until('Z');
	like($seen, qr/^RS*KZ$/, 'and the session begins');
	$c->send('p', "$without,p=$proof");
	($seen) = $c->until('E');
	is($seen, 'E', 'a second one: refused');
}
my @firsts = (
	[ 'PLUS without TLS', 'SCRAM-SHA-256-PLUS', 'p=tls-server-end-point,,n=,r=x' ], [ 'another mechanism', 'PLAIN', "\0blue\0x" ], [ 'no mechanism', '', '' ],
	[ 'an authorization identity', 'SCRAM-SHA-256', 'n,a=walcrypt_admin,n=,r=x' ], [ 'a mandatory extension', 'SCRAM-SHA-256', 'n,,m=x,n=,r=x' ], [ 'no nonce', 'SCRAM-SHA-256', 'n,,n=' ]);
for my $case (@firsts) {
	my ($what, $mechanism, $text) = @$case;
	my $c = client();
	Walcrypt::Scram::offered($c);
	Walcrypt::Scram::initial($c, $mechanism, $text);
	my (undef, $error) = Walcrypt::Scram::step($c);
	is($error->{C}, '08P01', "$what: refused");
	ok($c->closed, "$what: and closed");
	lives($what);
}
for my $case ([ 'a query instead of a proof', 'Q', "SHOW VERSION\0" ], [ 'CopyData instead of a proof', 'd', 'x' ]) {
	my ($what, $type, $body) = @$case;
	my $c = client();
	Walcrypt::Scram::offered($c);
	$c->send($type, $body);
	my ($seen) = $c->until('E');
	is($seen, 'E', "$what: refused");
	ok($c->closed, "$what: and closed");
}
{
	# a query sent ahead, behind a wrong proof, is not answered
	my $c = client();
	Walcrypt::Scram::offered($c);
	my $begun = Walcrypt::Scram::begin($c);
	my ($without) = Walcrypt::Scram::answer($begun, 'x');
	$c->raw('p' . pack('N', 4 + length "$without,p=x") . "$without,p=x" . 'Q' . pack('N', 17) . "SHOW VERSION\0");
	my ($seen) = $c->until('EZD');
	is($seen, 'E', 'a query behind a wrong proof is not looked at');
}

# 4 a client that stops in each state is ended after client_login_timeout, whatever it has sent before
my @stops = ([ 'before the first packet', sub { } ], [ 'in the middle of it', sub { $_[0]->raw(pack('NN', 100, 0x30000)) } ], [ 'after declined requests', sub { $_[0]->packet(pack('N', 80877103)) } ],
	[ 'before a mechanism', sub { $_[0]->startup(user => 'blue', replication => 'true') } ], [ 'after the first message', sub { $_[0]->startup(user => 'blue', replication => 'true'); Walcrypt::Scram::offered($_[0]); Walcrypt::Scram::begin($_[0]) } ],
	[ 'in the middle of the last', sub { $_[0]->startup(user => 'blue', replication => 'true'); Walcrypt::Scram::offered($_[0]); Walcrypt::Scram::begin($_[0]); $_[0]->raw('p' . pack('N', 100) . 'c=biws') } ]);
$proxy->{settings}{client_login_timeout} = '3s';
$proxy->write_conf;
is($proxy->restart, 1, 'client_login_timeout is 3 s');
my @stopped = map { my $c = Walcrypt::Wire->connect($proxy); $_->[1]->($c); [ $_->[0], $c ] } @stops;
for my $case (@stopped) {
	ok($case->[1]->closed, "a client that stops $case->[0] is ended");
}
like($proxy->log, qr/the authentication took too long/, 'the log says why');
ok($proxy->log !~ /blue, secret|admin "secret"|StoredKey|SCRAM-SHA-256\$/, 'no secret is in the log');

# 5 users and their file
{
	my $offset = $proxy->log_size;
	$proxy->{settings}{client_login_timeout} = '20s';
	$proxy->write_users(%users, new => Walcrypt::Scram::verifier('fresh', 'salt of mine....', 5000));
	$proxy->{settings}{admin_users} = 'walcrypt_admin, new';
	$proxy->write_conf;
	kill('HUP', $proxy->pid);
	wait_for_file_line($proxy->logfile, qr/reloaded/, $offset);
	my ($ok, $out, $err) = run_as('fresh', 'psql', '-XAt', '-d', $proxy->connstr('new') . ' dbname=walcrypt', '-c', 'SHOW VERSION');
	like($out, qr/^walcrypt-proxy /, 'a new user after a reload, with other iterations') or diag($err);
	$offset = $proxy->log_size;
	$proxy->write_users(%users, bad => 'a password in clear');
	kill('HUP', $proxy->pid);
	wait_for_file_line($proxy->logfile, qr/the configuration stays as it was.*not a SCRAM-SHA-256 verifier/, $offset);
	unlike($proxy->log($offset), qr/a password in clear/, 'a clear password in the file is refused and not repeated');
	($ok, $out) = run_as('fresh', 'psql', '-XAt', '-d', $proxy->connstr('new') . ' dbname=walcrypt', '-c', 'SHOW VERSION');
	ok($ok, 'the users of before stay');
	$proxy->write_users(%users);
	chmod 0644, "$proxy->{dir}/users";
	my ($rc, $said) = (IPC::Run::run([ $Walcrypt::proxy, '-t', '-c', $proxy->conf ], '>', \my $o, '2>', \my $e), undef);
	like($e, qr/auth_file ".*" is open to others: mode 0644/, 'a file that others may read is refused');
	chmod 0600, "$proxy->{dir}/users";
}

# 6 200 at once, each with its own exchange in steps
{
	my @all = map { client() } 1 .. 200;
	my $begun = grep { (Walcrypt::Scram::offered($_))[0] } @all;
	is($begun, 200, '200 connections at once are asked for their password');
	my @first = map { Walcrypt::Scram::begin($_) } @all;
	# one salt, so the slow part is done once
	my $salted = Walcrypt::Scram::salted($passwords{walcrypt_admin}, MIME::Base64::decode_base64($first[0]{s}), $first[0]{i});
	no warnings 'redefine';
	local *Walcrypt::Scram::salted = sub { return $salted };
	for my $i (0 .. $#all) { my ($without, $proof) = Walcrypt::Scram::answer($first[$i], ''); $all[$i]->send('p', "$without,p=$proof"); }
	is(scalar(grep { ($_->until('Z'))[0] =~ /^RRS*KZ$/ } @all), 200, 'and all get in');
	is(scalar(keys %{ { map { $_->{r} => 1 } @first } }), 200, 'with 200 different nonces');
}

# 7 who guesses too often is turned away for a while; others are not
{
	$proxy->{settings}{max_failed_logins} = 5;
	$proxy->write_conf;
	$proxy->restart;
	for my $n (1 .. 5) {
		my ($ok, undef, $err) = run_as('guess', 'psql', '-X', '-d', $proxy->tcp('walcrypt_admin') . ' dbname=walcrypt', '-c', 'SHOW VERSION');
		like($err, qr/password authentication failed/, "guess $n is answered") if $n == 5;
	}
	my ($ok, $out, $err) = run_as($passwords{walcrypt_admin}, 'psql', '-XAt', '-d', $proxy->tcp('walcrypt_admin') . ' dbname=walcrypt', '-c', 'SHOW VERSION');
	ok(!$ok && $err =~ /closed the connection/, 'then the address is turned away');
	($ok, $out, $err) = run_as($passwords{walcrypt_admin}, 'psql', '-XAt', '-d', "host=127.0.0.2 port=$proxy->{port} user=walcrypt_admin dbname=walcrypt", '-c', 'SHOW VERSION');
	$ok or ($ok, $out, $err) = run_as($passwords{walcrypt_admin}, 'psql', '-XAt', '-d', $proxy->connstr('walcrypt_admin') . ' dbname=walcrypt', '-c', 'SHOW VERSION');
	like($out, qr/^walcrypt-proxy /, 'others are not');
	is(() = $proxy->log =~ /connections from 127.0.0.1:\d+ are refused: max_failed_logins/g, 1, 'the log says so once');
	# and connections that do not get on with it
	$proxy->{settings}{max_failed_logins} = 0;
	@{ $proxy->{settings} }{qw(max_logins_per_address client_login_timeout)} = (10, '3s');
	$proxy->write_conf;
	$proxy->restart;
	my @idle = map { Walcrypt::Wire->connect_tcp($proxy) } 1 .. 10;
	my $one = Walcrypt::Wire->connect_tcp($proxy);
	ok($one->closed, 'the eleventh connection of an address that has not authenticated is closed');
	ok($_->closed, 'the others end by themselves') for $idle[0], $idle[9];
	# who is told that it may not come in counts until it goes, for so long it has a descriptor
	my @noise = map { my $c = Walcrypt::Wire->connect_tcp($proxy); $c->raw("GET / HTTP/1.1\r\n\r\n"); ($c->until('E'))[0] eq 'E' ? $c : () } 1 .. 30;
	cmp_ok(scalar(@noise), '<=', 10, 'and so are those that have been refused and stay');
	undef @noise;
	wait_for('them to go', sub { my $c = Walcrypt::Wire->connect_tcp($proxy); $c->packet(pack('N', 80877103)); ($c->bytes(1) // '') eq 'N' });
	($ok, $out) = run_as($passwords{walcrypt_admin}, 'psql', '-XAt', '-d', $proxy->tcp('walcrypt_admin') . ' dbname=walcrypt', '-c', 'SHOW VERSION');
	ok($ok, 'and make room');
	# and of all addresses together, whatever way they come
	@{ $proxy->{settings} }{qw(max_logins max_logins_per_address client_login_timeout)} = (5, 1000, '1min');
	$proxy->write_conf;
	$proxy->restart;
	# one that is asked on, so it has been let in
	sub let_in { my ($c) = @_; $c->packet(pack('N', 80877103)); return ($c->bytes(1) // '') eq 'N' ? $c : undef; }
	my @in = map { my $way = $_; wait_for('a place', sub { let_in(Walcrypt::Wire->$way($proxy)) }) } qw(connect connect_tcp connect connect_tcp connect);
	ok(!let_in(Walcrypt::Wire->$_($proxy)), "a sixth connection that has not authenticated is closed: $_") for qw(connect connect_tcp);
	like($proxy->log, qr/connections from local are refused: max_logins connections have not authenticated yet/, 'the log says why');
	# who has authenticated does not count
	close((pop @in)->{socket});
	my $served = wait_for('a place', sub { let_in(Walcrypt::Wire->connect($proxy)) });
	$served->startup(user => 'walcrypt_admin', database => 'walcrypt');
	Walcrypt::Scram::offered($served);
	my ($without, $proof) = Walcrypt::Scram::answer(Walcrypt::Scram::begin($served), $passwords{walcrypt_admin});
	$served->send('p', "$without,p=$proof");
	like(($served->until('ZE'))[0], qr/Z$/, 'who goes makes room');
	ok(wait_for('a place', sub { let_in(Walcrypt::Wire->connect($proxy)) }), '... as does who has authenticated');
}
is($proxy->stop, 0, 'it stops in good order');
done_testing();
