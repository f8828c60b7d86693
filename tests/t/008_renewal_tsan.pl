# The proxy built with the thread sanitizer renews its login to a key server, by a thread of its own, every few seconds and then every second, while it is told to
# reload in a loop, which fetches cluster keys from three providers; tokens are revoked and the server is away for a while meanwhile. No data
# race, and each login that the thread makes is of use.
use strict;
use warnings;

BEGIN { $ENV{TSAN_OPTIONS} = 'halt_on_error=0:exitcode=66:second_deadlock_stack=1'; }
use Cwd ();
use JSON::PP;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Walcrypt;
use Walcrypt::KeyCommands;
use Walcrypt::Kmip;
use Walcrypt::Relay;
use Walcrypt::Vault;

my $tmp = $PostgreSQL::Test::Utils::tmp_check . '/renewal';
mkdir $tmp, 0700;
my $bao = Walcrypt::Vault->new(name => 'renewal', tls => 1);
my $role = $bao->transit_role(qw(token_ttl=10s token_max_ttl=1h));
my $secret_id = put("$tmp/secret_id", $bao->secret_id . "\n");
my $relay = Walcrypt::Relay->new({ host => '127.0.0.1', port => $bao->port });
$relay->start;
my $kmip = Walcrypt::Kmip->new(name => 'renewal');

# three keysets, each from another provider: a login that is renewed, a connection and a process that stay
my $port   = PostgreSQL::Test::Cluster::get_free_port();
my $config = put("$tmp/w.ini", "[walcrypt]\nauth_type = trust\nlisten_port = $port\nunix_socket_dir = $tmp\nkeystore = $tmp/ks\n\n"
	  . "[kek vault]\nuri = vault-transit://localhost:@{[ $relay->port ]}/transit/walcrypt\nca_file = @{[ $bao->ca_file ]}\nlogin = approle\nlogin_role = $role\nlogin_file = $secret_id\ntimeout = 5s\n"
	  . "[kek kmip]\nuri = @{[ $kmip->uri('main') ]}\n[kek keeper]\nuri = external:main:exec perl @{[ Cwd::getcwd() ]}/conf/external/keeper.pl $tmp/keeper\n"
	  . "[node red]\nconninfo = host=$tmp port=1\nkeyset = none\n" . join('', map { "[node $_]\nkeyset = $_\nkek = $_\n" } qw(vault kmip keeper)));
ctl('key', 'init', $_, qw(--create-kek --system-identifier 7000000000000000001 --config), $config) for qw(vault kmip keeper);

my $log = put("$tmp/proxy.log", '');
my $pid = fork() // die;
if ($pid == 0) {
	open(STDERR, '>>', $log);
	exec("$ENV{WALCRYPT_PREFIX}-tsan/bin/walcrypt-proxy", '-c', $config) or POSIX::_exit(1);
}
wait_for('the proxy', sub { die 'it has ended: ' . slurp_file($log) if waitpid($pid, POSIX::WNOHANG()) == $pid; return slurp_file($log) =~ /walcrypt-proxy .*port/; });

sub tokens { return grep { $_->{path} eq 'auth/approle/login' } map { my ($rc, $out) = $bao->cli_output(qw(token lookup -format=json -accessor), $_); $rc == 0 ? decode_json($out)->{data} : () } @{ decode_json($bao->cli(qw(list -format=json auth/token/accessors))) }; }
sub count { my ($words) = @_; return scalar(() = slurp_file($log) =~ /$words/g); }
my $reloads = 0;
sub reload
{
	kill('HUP', $pid);
	$reloads++;
	wait_for("reload $reloads", sub { count(qr/reloaded; sessions|stays as it was/) >= $reloads });
	return;
}

my ($kept) = tokens();
ok($kept, 'the proxy keeps a token');
reload() for 1 .. 10;
wait_for('a renewal', sub { grep { $_->{accessor} eq $kept->{accessor} && $_->{last_renewal} } tokens() });
wait_for('one token', sub { tokens() == 1 });    # others are given back
is(scalar(tokens()), 1, 'it is renewed, by one thread, while others use it');
# so short that the thread and the reloads both renew and log in all the time, the thread right after each reload
$bao->cli(qw(write auth/approle/role/proxy token_policies=walcrypt token_ttl=2s token_max_ttl=1h));
for my $round (1 .. 3) {
	# both find out together that it is no good any more
	$bao->cli_output(qw(token revoke -accessor), $_->{accessor}) for tokens();    # one may have ended by itself
	reload() for 1 .. 6;
}
$bao->cli(qw(write auth/approle/role/proxy token_policies=walcrypt token_ttl=10s token_max_ttl=1h));
is(count(qr/stays as it was/), 0, 'no reload failed by a token that was revoked');
$relay->cut;
reload() for 1 .. 2;
wait_for('a renewal that fails', sub { count(qr/"vault" could not be fetched again now/) });
$relay->start;
wait_for('one that succeeds', sub { count(qr/"vault" could be fetched again/) });
reload() for 1 .. 5;
cmp_ok(count(qr/reloaded; sessions/), '>=', 30, 'reloaded in a loop');
ok(wait_for('a token', sub { (tokens())[0] }), 'there is a token');
kill('TERM', $pid);
waitpid($pid, 0);
is($?, 0, 'the proxy ends with exit 0');
unlike(slurp_file($log), qr/WARNING: ThreadSanitizer/, 'no data race') or diag slurp_file($log);
print "# $_\n" for split(/\n/, slurp_file($log));
done_testing();
