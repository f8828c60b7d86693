# Goal: users who are in no file are asked of a server, with the least rights; what is remembered grows old, and a server that
# does not answer holds up nobody else.
use strict;
use warnings;
use PostgreSQL::Test::Utils;
use PostgreSQL::Test::Cluster;
use Test::More;
use Walcrypt;
use Walcrypt::Certificates;
use Walcrypt::Wire;
use Walcrypt::Scram;

my $red = Walcrypt::Node->new('red');
$red->init(allows_streaming => 1, extra => ['-k']);
$red->append_conf('postgresql.conf', "password_encryption = 'scram-sha-256'\nlog_statement = all\n");
$red->start;
$red->safe_psql('postgres', q{
	CREATE ROLE walcrypt_auth LOGIN;
	CREATE FUNCTION walcrypt_auth(name) RETURNS text LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog
		AS $$ SELECT passwd FROM pg_shadow WHERE usename = $1 AND NOT usesuper AND (valuntil IS NULL OR valuntil > now()) $$;
	REVOKE ALL ON FUNCTION walcrypt_auth(name) FROM PUBLIC;
	GRANT EXECUTE ON FUNCTION walcrypt_auth(name) TO walcrypt_auth;
	CREATE ROLE admin LOGIN PASSWORD 'secret';
	CREATE ROLE blue LOGIN PASSWORD 'secret';
	CREATE ROLE past LOGIN PASSWORD 'secret' VALID UNTIL '2020-01-01';
	CREATE ROLE nothing LOGIN;
	SET password_encryption = md5;
	CREATE ROLE old LOGIN PASSWORD 'secret';
	CREATE ROLE boss SUPERUSER LOGIN PASSWORD 'secret'; });
my $certs = Walcrypt::Certificates->new(PostgreSQL::Test::Utils::tempdir() . '/certs');
$certs->authority('ca');
$certs->make('proxy', ca => 'ca', cn => 'proxy.test', names => 'IP:127.0.0.1');
my @users = ('admin', 'past', 'nothing', 'old', 'boss', 'nobody', "o'hara");
my $ask = 'host=' . $red->host . ' port=' . $red->port . ' user=walcrypt_auth dbname=postgres';
my $proxy = Walcrypt::Proxy->new(
	nodes => { red => { conninfo => $red->connstr_for_proxy }, blue => { keyset => 'blue' } },
	settings => { auth_type => 'scram-sha-256', auth_conninfo => $ask, auth_query => 'SELECT public.walcrypt_auth($1)', auth_cache => '1h', max_failed_logins => 0,
		admin_users => join(', ', @users, 'filed'), connect_timeout => '8s' });
$proxy->{settings}{auth_file} = $proxy->write_users(filed => Walcrypt::Scram::verifier('filed', '0123456789abcdef', 4096));
$proxy->write_conf;
$proxy->key_init('blue');
$proxy->start;

sub version
{
	my ($user, $password) = @_;
	local $ENV{PGPASSWORD} = $password;
	my ($out, $err) = ('', '');
	(my $quoted = $user) =~ s/'/\\'/g;
	IPC::Run::run([ 'psql', '-XAt', '-d', "host=" . $proxy->host . " port=" . $proxy->port . " user='$quoted' dbname=walcrypt", '-c', 'SHOW VERSION' ], '<', \undef, '>', \$out, '2>', \$err);
	return $out =~ /^walcrypt/ ? 'in' : $err;
}
sub asked { my ($user) = @_; return scalar(() = slurp_from($red->logfile) =~ /parameters: \$1 = '\Q$user\E'/g); }

is(version('admin', 'secret'), 'in', 'a user of the server');
is(asked('admin'), 1, 'it was asked for once');
is(version('admin', 'secret'), 'in', 'again');
is(asked('admin'), 1, 'and not asked for again');
is(version('filed', 'filed'), 'in', 'a user of the file');
is(asked('filed'), 0, 'is not asked for');
like(version('admin', 'guess'), qr/password authentication failed for user "admin"/, 'a wrong password');
for my $user (@users[ 1 .. $#users ]) {
	like(version($user, 'secret'), qr/password authentication failed for user "\Q$user\E"/, "$user is refused like a wrong password");
	is(asked($user =~ s/'/''/r), 1, "$user was asked for");
	version($user, 'secret');
	is(asked($user =~ s/'/''/r), 1, "$user is remembered as nobody");
}
like($proxy->log, qr/auth_query gives no SCRAM-SHA-256 verifier for user "old"/, 'the log says of an md5 password that it is none');
{
	local $ENV{PGPASSWORD} = 'secret';
	my ($ok, $err);
	$ok = IPC::Run::run([ 'pg_basebackup', '-D', PostgreSQL::Test::Utils::tempdir() . '/b', '-d', $proxy->connstr('blue'), '--no-sync', '--checkpoint=fast' ], '2>', \$err);
	ok($ok, 'pg_basebackup, whose second connection is asked for too') or diag($err);
}
unlike(slurp_from($proxy->logfile), qr/SCRAM-SHA-256\$|secret/, 'no secret in the log');

# a new password: at once after a reload, and after a wrong try a little later
$red->safe_psql('postgres', q{ALTER ROLE admin PASSWORD 'changed'});
like(version('admin', 'changed'), qr/password authentication failed/, 'a new password is not known yet');
my $offset = $proxy->log_size;
kill('HUP', $proxy->pid);
wait_for_file_line($proxy->logfile, qr/reloaded; sessions/, $offset);
is(version('admin', 'changed'), 'in', 'but after a reload');
$red->safe_psql('postgres', q{ALTER ROLE admin PASSWORD 'changed again'});
wait_for('what is remembered to be doubted', sub { version('admin', 'changed again') eq 'in' });
pass('and by itself, once a proof did not fit and some seconds have passed');
cmp_ok(asked('admin'), '<', 5, 'without asking each time');

# the connection is lost: it is made anew
$red->safe_psql('postgres', q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'walcrypt_auth'});
$proxy->{settings}{auth_cache} = '0';
$proxy->write_conf;
$offset = $proxy->log_size;
kill('HUP', $proxy->pid);
wait_for_file_line($proxy->logfile, qr/reloaded; sessions/, $offset);
is(version('admin', 'changed again'), 'in', 'after the connection was lost');
my $before = asked('admin');
is(version('admin', 'changed again'), 'in', 'auth_cache = 0');
is(asked('admin'), $before + 1, 'asks each time');

# a name of bytes that are no text to the server is nobody's, as any other
$offset = $proxy->log_size;
my $bytes = Walcrypt::Wire->connect($proxy);
$bytes->startup(user => "b\xFFd", database => 'walcrypt');
is(join(' ', Walcrypt::Scram::offered($bytes)), 'SCRAM-SHA-256', 'a name that is no text is asked for a password');
# that the client before has gone is no word about this one
is($proxy->log($offset) =~ s/^.*closed: the client ended it.*\n//mgr, '', '... without a word in the log, and the connection stays');

# a server that takes its time: who has gone meanwhile is not asked for
sub reload { my (%set) = @_; $proxy->{settings}{$_} = $set{$_} for keys %set; $proxy->write_conf; my $at = $proxy->log_size; kill('HUP', $proxy->pid); wait_for_file_line($proxy->logfile, qr/reloaded; sessions/, $at); return; }
my $slow = 'SELECT public.walcrypt_auth($1), pg_sleep(2)';
reload(auth_query => $slow, auth_cache => '1h');
my @left = map { my $w = Walcrypt::Wire->connect($proxy); $w->startup(user => "left$_", database => 'walcrypt'); $w } 1 .. 10;
undef @left;
is(version('admin', 'changed again'), 'in', 'users that nobody waits for hold up nobody');
cmp_ok(scalar(grep { asked("left$_") } 1 .. 10), '<', 5, '... for they are not asked for');

# what a session of before a reload asks is answered to nobody after it
reload(auth_query => $slow);
my $before_reload = Walcrypt::Wire->connect($proxy);
my $asked = asked('admin');
$before_reload->startup(user => 'admin', database => 'walcrypt');
wait_for('the question', sub { asked('admin') > $asked });
reload(auth_query => "SELECT NULL WHERE \$1 = ''");
is(join(' ', Walcrypt::Scram::offered($before_reload)), 'SCRAM-SHA-256', 'a session goes on as the configuration was when it began');
like(version('admin', 'changed again'), qr/password authentication failed/, '... and what it was answered counts for no later one');
reload(auth_query => 'SELECT public.walcrypt_auth($1)', auth_cache => '0');
is(version('admin', 'changed again'), 'in', 'the old question again');

# while a user is looked up, what comes ahead of the question for the password stays in the kernel: no more is read than a login needs
sub unread
{
	my ($c) = @_;
	open(my $f, '<', '/proc/net/tcp') or die "/proc/net/tcp: $!";
	my ($from, $to) = map { sprintf(':%04X', $_) } $c->{socket}->sockport, $proxy->port;
	my @lines = <$f>;
	my ($on_way) = map { /$from \S+$to \w\w (\w+):/ ? hex $1 : () } @lines;
	my ($unread) = map { /$to \S+$from \w\w \w+:(\w+)/ ? hex $1 : () } @lines;
	return $on_way == 0 ? $unread : undef;
}
$proxy->{settings}{$_->[0]} = $_->[1] for [ workers => 1 ], [ connect_timeout => '1min' ], [ client_tls_sslmode => 'allow' ], [ client_tls_cert_file => $certs->file('proxy.crt') ], [ client_tls_key_file => $certs->file('proxy.key') ];
$proxy->write_conf;
$proxy->restart;
is(version('admin', 'changed again'), 'in', 'again');
my @askers = split(/\n/, $red->safe_psql('postgres', q{SELECT pid FROM pg_stat_activity WHERE usename = 'walcrypt_auth'}));
kill('STOP', @askers);
my @ahead;
for my $tls (0, 1) {
	my $c = Walcrypt::Wire->connect_tcp($proxy);
	if ($tls) { $c->packet(pack('N', 80877103)); $c->bytes(1); $c->start_tls or die 'TLS'; }
	$c->startup(user => 'admin', database => 'walcrypt');
	$c->send('p', 'x' x 1000) for 1 .. 48;
	wait_for('all to be there, and some to be read', sub { my $n = unread($c); defined $n && $n < 48 * 1005 - 8000 });
	# each has the worker look at all of its sockets
	version('filed', 'filed') for 1 .. 20;
	cmp_ok(unread($c), '>=', 48 * 1005 - ($tls ? 32768 : 16384), 'ahead of the authentication no more than 16 KiB are read' . ($tls ? ', with TLS and a record that it holds' : ''));
	push @ahead, $c;
}
kill('CONT', @askers);
for my $c (@ahead) {
	my ($seen, $body) = $c->until('E');
	is("$seen " . { Walcrypt::Wire::fields($body) }->{C}, 'RE 08P01', '... and when the user is found, what came is looked at');
	is(wait_for('the rest to be taken', sub { my $n = unread($c); defined $n ? $n == 0 && 'taken' : 'lost' }), 'taken', '... and what is none of its business thrown away, so that its end is seen');
}
{
	my $c = Walcrypt::Wire->connect_tcp($proxy);
	my $start = pack('N', 0x30000) . "user\0filed\0database\0walcrypt\0application_name\0";
	my $packet = pack('N', 10004) . $start . 'x' x (10000 - 2 - length $start) . "\0\0";
	$c->raw(substr($packet, 0, 10003));
	wait_for('all but a byte to be read', sub { (unread($c) // -1) == 0 });
	$c->raw(substr($packet, 10003));
	is(join(' ', Walcrypt::Scram::offered($c)), 'SCRAM-SHA-256', 'the longest startup packet fits');
}
$proxy->{settings}{connect_timeout} = '8s';
$proxy->write_conf;
$proxy->restart;
is(version('admin', 'changed again'), 'in', 'again');

# a server that hangs: others go on, and who waits is told
my @pids = split(/\n/, $red->safe_psql('postgres', q{SELECT pid FROM pg_stat_activity WHERE usename = 'walcrypt_auth'}));
kill('STOP', @pids);
my $c = Walcrypt::Wire->connect($proxy);
$c->startup(user => 'admin', database => 'walcrypt');
is(version('filed', 'filed'), 'in', 'while the server hangs, a user of the file gets in');
my (undef, $body) = $c->until('E');
like({ Walcrypt::Wire::fields($body) }->{M}, qr/users cannot be looked up now/, 'who must be asked for is told');
kill('CONT', @pids);
# one that is gone, with a client that goes while it waits, and a stop meanwhile
kill('STOP', @pids);
my @gone = map { my $w = Walcrypt::Wire->connect($proxy); $w->startup(user => 'admin', database => 'walcrypt'); $w } 1 .. 5;
undef @gone;
is($proxy->stop, 0, 'it stops in good order while questions are open');
kill('CONT', @pids);
$red->stop;
$proxy->start;
like(version('admin', 'changed again'), qr/users cannot be looked up now/, 'without a server: the same');
is(version('filed', 'filed'), 'in', 'and the file still counts');
like($proxy->log, qr/could not ask for a user's verifier/, 'the log says why');
is($proxy->stop, 0, 'it stops in good order');
done_testing();
