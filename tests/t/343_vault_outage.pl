# A key server and a proxy that lives long: tokens and logins are renewed, replaced and lost; the server goes away, hangs, is sealed. What
# runs goes on, a reload changes nothing, a start says what is missing, nothing hangs longer than its time-out, and all is well again
# when the server is.
use strict;
use warnings;
use JSON::PP;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);
use Walcrypt;
use Walcrypt::Relay;
use Walcrypt::Vault;

my $tmp = $PostgreSQL::Test::Utils::tmp_check . '/outage';
mkdir $tmp, 0700;
my $bao = Walcrypt::Vault->new(name => 'outage', tls => 1);
my $role = $bao->transit_role(qw(token_ttl=12s token_max_ttl=1h));

sub put { my ($name, $text) = @_; open(my $f, '>', "$tmp/$name.new") or die; print $f $text; close $f; chmod 0600, "$tmp/$name.new"; rename "$tmp/$name.new", "$tmp/$name"; return "$tmp/$name"; }
sub secret_id { return put('secret_id', $bao->secret_id . "\n"); }
secret_id();

# everything goes through relays, so that the server's way can be cut and fall silent
my $relay = Walcrypt::Relay->new({ host => '127.0.0.1', port => $bao->port });
$relay->start;
my $transit = 'vault-transit://localhost:' . $relay->port . '/transit/walcrypt';
my $login   = "login=approle&login_role=$role&login_file=$tmp/secret_id&ca_file=" . $bao->ca_file;

my $red = Walcrypt::Node->new('red');
$red->init(allows_streaming => 1, extra => ['-k']);
$red->append_conf('postgresql.conf', 'fsync = off');
$red->start;
$red->safe_psql('postgres', 'CREATE TABLE t (i int)');
my $proxy = Walcrypt::Proxy->new(kek_uri => "$transit?$login", kek_options => { timeout => '2s' },
	nodes => { red => { conninfo => $red->connstr_for_proxy }, blue => { keyset => 'blue' } });
$proxy->key_init('blue');
$proxy->start;
# the standby takes its key as the configuration says, with its time-out
$ENV{WALCRYPT_CONFIG} = $proxy->conf;
my $blue = Walcrypt::Node->new('blue');
$blue->init_from_proxy($proxy, 'blue');
$blue->use_layer('site');
ok(-s $blue->data_dir . '/pg_cryptokeys/live/kek.wrapped', 'a base backup carries the wrapped cluster key');
$blue->start;
my $rows = 0;

sub replicates
{
	my ($what) = @_;
	$red->safe_psql('postgres', 'INSERT INTO t VALUES (1)');
	$rows++;
	ok($blue->poll_query_until('postgres', "SELECT count(*) = $rows FROM t"), "replication runs: $what");
	return;
}

sub reload
{
	my ($words, $what) = @_;
	my $offset = $proxy->log_size;
	kill('HUP', $proxy->pid);
	wait_for_file_line($proxy->logfile, qr/reloaded; sessions|the configuration stays as it was/, $offset);
	like($proxy->log($offset), $words, "a reload: $what");
	return;
}

sub accessors { return @{ decode_json($bao->cli(qw(list -format=json auth/token/accessors))) }; }

sub look
{
	my ($accessor) = @_;
	my ($rc, $out) = $bao->cli_output(qw(token lookup -format=json -accessor), $accessor);
	return $rc == 0 ? decode_json($out)->{data} : undef;
}

replicates('at the start');

# the proxy's login is renewed: it lives longer than its twelve seconds
my ($kept) = grep { (look($_) // { path => '' })->{path} eq 'auth/approle/login' } accessors();
ok($kept, 'the proxy keeps a token') or BAIL_OUT('no token');
wait_for('a renewal', sub { (look($kept) // {})->{last_renewal} });
wait_for('the end of its first life', sub { my $d = look($kept) or die "it ended\n"; time() > $d->{creation_time} + $d->{creation_ttl} + 1 });
ok(look($kept), 'the token lives longer than it was given for');
reload(qr/reloaded; sessions/, 'with the same token');
is_deeply([ grep { (look($_) // { path => '' })->{path} eq 'auth/approle/login' } accessors() ], [$kept], 'nobody has logged in again');
# revoked: the proxy logs in again
$bao->cli(qw(token revoke -accessor), $kept);
wait_for('a new login', sub { grep { $_ ne $kept && (look($_) // { path => '' })->{path} eq 'auth/approle/login' } accessors() });
reload(qr/reloaded; sessions/, 'after the token was revoked');
# the role ends: said once, nothing stops; it is there again: said, too
my $offset = $proxy->log_size;
$bao->cli(qw(write auth/approle/role/proxy token_policies=walcrypt token_ttl=6s token_max_ttl=1h secret_id_bound_cidrs=192.0.2.1/32));
$bao->cli_output(qw(token revoke -accessor), $_) for grep { (look($_) // { path => '' })->{path} eq 'auth/approle/login' } accessors();    # one may have ended by itself
wait_for_file_line($proxy->logfile, qr/WARNING:  cluster key "site" could not be fetched again now: "localhost:\d+" refuses the login by approle/, $offset);
replicates('without a login');
$bao->cli(qw(write auth/approle/role/proxy token_policies=walcrypt token_ttl=1h token_max_ttl=2h), 'secret_id_bound_cidrs=');
wait_for_file_line($proxy->logfile, qr/cluster key "site" could be fetched again/, $offset);
is(() = $proxy->log($offset) =~ /could not be fetched again now/g, 1, 'it was said once');

# a token in a file: renewed, replaced
my $first = $bao->token_for('filed', qq(path "transit/decrypt/walcrypt" { capabilities = ["update"] }\n), '-ttl=12s', '-explicit-max-ttl=0');
put('token', "$first\n");
$proxy->{kek_uri} = "$transit?token_file=$tmp/token&ca_file=" . $bao->ca_file;
$proxy->write_conf;
reload(qr/reloaded; sessions/, 'with a token from a file');
my $accessor = decode_json($bao->cli(qw(token lookup -format=json), $first))->{data}{accessor};
wait_for('a renewal', sub { (look($accessor) // {})->{last_renewal} });
ok(1, 'the token in the file is renewed');
$offset = $proxy->log_size;
put('token', $bao->token_for('filed', qq(path "transit/decrypt/walcrypt" { capabilities = ["update"] }\n), '-ttl=1h') . "\n");
$bao->cli(qw(token revoke -accessor), $accessor);
reload(qr/reloaded; sessions/, 'with the token that has taken its place');
put('token', $bao->token_for('filed', qq(path "transit/decrypt/walcrypt" { capabilities = ["update"] }\n), '-ttl=8s', '-renewable=false') . "\n");
reload(qr/reloaded; sessions/, 'with one that cannot be renewed');
wait_for_file_line($proxy->logfile, qr/WARNING:  cluster key "site" could not be fetched again now: the token for "localhost:\d+" ends in \d+ s.*\n.*HINT:  Until there is another one|denies the token access/, $offset);
wait_for('the token to end', sub { ($bao->cli_output(qw(token lookup), slurp_from("$tmp/token") =~ s/\s+//gr))[0] != 0 });
reload(qr/the configuration stays as it was: cluster key "site": "localhost:\d+" denies the token access/, 'with a token that has expired');
replicates('with an expired token');
$offset = $proxy->log_size;
put('token', $bao->token_for('filed', qq(path "transit/decrypt/walcrypt" { capabilities = ["update"] }\n), '-ttl=1h') . "\n");
wait_for_file_line($proxy->logfile, qr/cluster key "site" could be fetched again/, $offset);
reload(qr/reloaded; sessions/, 'with a fresh one');
$proxy->{kek_uri} = "$transit?$login";
$proxy->write_conf;
reload(qr/reloaded; sessions/, 'by a login again');

# outages: down, silent, sealed. The same is true of each
sub outage
{
	my ($what, $words, $begin, $end) = @_;
	$begin->();
	replicates("the server is $what");
	reload(qr/the configuration stays as it was: cluster key "site": $words/, "the server is $what");
	my ($rc, $out, $err) = ctl_output(qw(key verify blue --config), $proxy->conf);
	is($rc, 4, "$what: walcrypt-ctl's exit status");
	# what was running has its keys; a start has none, and says so in time
	$proxy->stop;
	my $offset = $proxy->log_size;
	my $start = time();
	is($proxy->start(fail_ok => 1), 0, "$what: a proxy does not start");
	cmp_ok(time() - $start, '<', 20, 'and does not hang');
	like($proxy->log($offset), qr/FATAL:  cluster key "site": $words/, 'but says what is missing');
	$blue->stop;
	$start = time();
	is($blue->start(fail_ok => 1), 0, "$what: a standby does not start");
	cmp_ok(time() - $start, '<', 30, 'and does not hang');
	like(slurp_from($blue->logfile), qr/$words/, 'but says what is missing');
	$end->();
	$proxy->start;
	$blue->start;
	replicates("the server is back");
	return;
}

outage('down', qr/could not reach "localhost:\d+"/, sub { $relay->cut }, sub { $relay->start });
outage('silent', qr/"localhost:\d+" did not answer in time/, sub { $relay->freeze }, sub { $relay->thaw; $relay->cut; $relay->start });
outage('sealed', qr/"localhost:\d+" is sealed or in maintenance/, sub { $bao->cli(qw(operator seal)) }, sub { $bao->unseal; wait_for('the server', sub { ($bao->cli_output(qw(token lookup)))[0] == 0 }) });

# the proxy ends at once although the server is silent while it renews
$relay->freeze;
kill('HUP', $proxy->pid);
my $start = time();
is($proxy->stop, 0, 'the proxy stops while the server is silent');
cmp_ok(time() - $start, '<', 20, 'and does not hang');
$relay->thaw;
unlike(slurp_from($_), qr/\b[0-9a-f]{64}\b|\bs\.[A-Za-z0-9]{20}|hvs\./, 'no key and no token in ' . $_) for $proxy->logfile, $blue->logfile;

done_testing();
