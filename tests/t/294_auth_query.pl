# Goal: users who are in no file are asked of a server, with the least rights; what is remembered grows old, and a server that
# does not answer holds up nobody else.
use strict;
use warnings;
use PostgreSQL::Test::Utils;
use PostgreSQL::Test::Cluster;
use Test::More;
use Walcrypt;
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
my @users = ('admin', 'past', 'nothing', 'old', 'boss', 'nobody', "o'hara");
my $ask = 'host=' . $red->host . ' port=' . $red->port . ' user=walcrypt_auth dbname=postgres';
my $proxy = Walcrypt::Proxy->new(
	nodes => { red => { conninfo => $red->connstr_for_proxy }, blue => { keyset => 'blue' } },
	settings => { auth_type => 'scram-sha-256', auth_conninfo => $ask, auth_query => 'SELECT public.walcrypt_auth($1)', auth_cache => '1h', max_failed_logins => 0,
		admin_users => join(', ', @users, 'filed'), connect_timeout => '3s' });
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
