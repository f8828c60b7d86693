# walcrypt-ctl build and status against a running proxy; key init asking the primary.
use strict;
use warnings;
use IO::Socket::INET;
use JSON::PP;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Walcrypt;
use Walcrypt::Console;

my $tmp = $PostgreSQL::Test::Utils::tmp_check . '/build';
mkdir $tmp, 0700;
my $red = Walcrypt::Node->new('red');
$red->init(allows_streaming => 1, extra => ['-k']);
$red->start;
$red->safe_psql('postgres', "CREATE TABLE t AS SELECT i, 'marker-build-77' AS v FROM generate_series(1, 1000) i; CHECKPOINT");
my $proxy = Walcrypt::Proxy->new(nodes => { red => { conninfo => $red->connstr_for_proxy }, blue => { keyset => 'blue' }, grey => { keyset => 'none' } });
my @conf = ('--config', $proxy->conf);

# a primary that wants a password, and one that does not let walcrypt in
{
	$red->safe_psql('postgres', "SET password_encryption = 'scram-sha-256'; CREATE ROLE asked LOGIN REPLICATION PASSWORD 'x'; CREATE ROLE out LOGIN");
	my $hba = slurp_file($red->data_dir . '/pg_hba.conf');
	open(my $f, '>', $red->data_dir . '/pg_hba.conf') or die;
	print $f "local all,replication asked scram-sha-256\n", $hba;
	close $f;
	$red->reload;
	my %conninfo = map { $_ => $red->connstr_for_proxy =~ s/user=\S+/user=$_/r } qw(asked out);
	my $asked = Walcrypt::Proxy->new(nodes => { red => { conninfo => $conninfo{asked} }, blue => { keyset => 'blue' } });
	local $ENV{PGPASSFILE} = "$tmp/pgpass";
	my ($rc, $o, $err) = ctl_output(qw(key init blue --config), $asked->conf);
	is($rc, 4, 'key init without the password');
	like($err, qr/could not ask node "red": .*no password supplied\nHINT:  Put its password into ~\/\.pgpass/, '... says where it belongs');
	# with the database that walreceiver names
	append_to_file($ENV{PGPASSFILE}, $red->host . ':*:replication:asked:x');
	chmod 0600, $ENV{PGPASSFILE};
	$asked->key_init('blue');
	$asked->start;
	my @backup = ('pg_basebackup', '-d', $asked->connstr('blue'), '-D', "$tmp/asked", '--checkpoint=fast', '--no-sync');
	command_fails_like([@backup], qr/permission denied|pg_read_all_settings/, 'the proxy gets in with it; what it still lacks is said');
	$red->safe_psql('postgres', 'GRANT pg_read_all_settings TO asked');
	command_ok([@backup], '... and the backup runs');
	unlink $ENV{PGPASSFILE};
	command_fails_like([ @backup, '-D', "$tmp/asked2" ], qr/could not connect to upstream "red".*no password supplied.*HINT:  Put its password into ~\/\.pgpass/s, 'the proxy without the password says so too');
	$asked->stop;
	$asked->{nodes}{red}{conninfo} = $conninfo{out};
	$asked->write_conf;
	($rc, $o, $err) = ctl_output(qw(key init green --config), $asked->conf);
	like($err, qr/FATAL: .*\n(?:DETAIL: .*\n)?HINT:  It runs, but does not let walcrypt in: /, 'a role that may not replicate');
}

# the system identifier comes from the primary
my $out = ctl(qw(key init blue), @conf);
my $identifier = $red->safe_psql('postgres', 'SELECT system_identifier FROM pg_control_system()');
like($out, qr/^System identifier $identifier;/m, 'key init asks the primary for its system identifier');

# status and build without a proxy
my ($rc, $o, $err) = ctl_output('status', @conf);
is($rc, 4, 'status: no proxy runs');
like($err, qr/could not reach the proxy/, '... is said');
($rc, $o, $err) = ctl_output('status');
is($rc, 2, 'status: nobody says where');
($rc, $o, $err) = ctl_output('build', 'blue', '-D', "$tmp/none", @conf);
is($rc, 1, 'build: no proxy runs');
like($err, qr/pg_basebackup failed with exit status 1/, '... is said');

$proxy->start;
($rc, $o, $err) = ctl_output('build', 'pink', '-D', "$tmp/none", @conf);
is($rc, 2, 'build: no such node');
like($err, qr/has no \[node pink\]\nHINT:  Nodes with a keyset there: blue\./, '... names those there are');
($rc, $o, $err) = ctl_output('build', 'grey', '-D', "$tmp/none", @conf);
is($rc, 6, 'build: a node that is to be clear');
($rc, $o, $err) = ctl_output('build', 'blue', '-D', "$tmp/none", @conf, '--kek', "file:$tmp/nokek", '--checkpoint=fast');
is($rc, 4, 'build: a cluster key that is not there');
ok(-d "$tmp/none/pg_cryptokeys", '... is found when the key directory is opened');

# build
my $blue = Walcrypt::Node->new('blue');
mkdir $blue->backup_dir;
mkdir $blue->archive_dir;
($rc, $out, $err) = ctl_output('build', 'blue', '-D', $blue->data_dir, @conf, '--checkpoint=fast', '--no-sync', '-X', 'stream');
is($rc, 0, 'build') or diag($err);
like($out, qr/Standby "blue" is built, encrypted, AES256: .*walcrypt-ctl exec -D \S+ --config \S+ -- pg_ctl -l \S+\.log -o '-p \d+' start$/ms, '... says what to do next');
unlike($err, qr/begins with a checkpoint/, '... and nothing about a fast checkpoint');
is(scalar files_containing('marker-build-77', $blue->data_dir), 0, '... and nothing of it is clear');
cmp_ok(scalar files_containing('marker-build-77', $red->data_dir), '>', 0, '(the search finds it in the primary)');
$blue->append_conf('postgresql.conf', 'port = ' . $blue->port . "\nunix_socket_directories = '" . $blue->host . "'\n");
$blue->use_layer($proxy->kek_uri)->start;
wait_for('streaming', sub { $red->safe_psql('postgres', "SELECT count(*) FROM pg_stat_replication WHERE application_name = 'blue'") eq '1' });
ok(1, 'it streams under its own name');
$red->wait_for_catchup('blue');
is($blue->safe_psql('postgres', 'SELECT count(*) FROM t'), '1000', '... and has the rows');

# key show and verify by the data directory
is((ctl('key', 'show', '-D', $blue->data_dir) =~ /^relation key +(\w+)/m)[0], (ctl('key', 'show', 'blue', @conf) =~ /^relation key +(\w+)/m)[0],
	'its keys are those of the keystore');
($rc, $out) = ctl_output('verify', '-D', $blue->data_dir, @conf);
is($rc, 0, 'verify is clean') or diag($out);

# status
$out = ctl('status', @conf);
like($out, qr/^status\n.*^nodes\n.*^standbys\n.*^upstream\n.*^sessions\n.*^keys\n.*^stats\n/ms, 'status shows all views');
like($out, qr/blue/, '... and the standby in them');
my $json = decode_json(ctl('status', '--json', @conf));
is(join(' ', sort keys %$json), 'keys nodes sessions standbys stats status upstream', 'status as JSON');
cmp_ok(scalar(grep { my $row = $_; grep { ($_ // '') eq 'blue' } values %$row } @{ $json->{sessions} }), '>=', 1, '... the standby has a session');
# it says what the console says: between two equal looks at it, all that does not change by itself
my (%shows, %console);
my $views = sub {
	my %of;
	for my $view (qw(nodes standbys upstream keys)) {
		my @rows = $_[0]->($view);
		for my $row (@rows) { delete @$row{ grep { /_s$|^since$/ } keys %$row }; $_ //= '' for values %$row; }
		$of{$view} = \@rows;
	}
	return %of;
};
wait_for('two equal looks', sub {
	%console = $views->(sub { console_rows($proxy, "SHOW $_[0]") });
	my $said = decode_json(ctl('status', '--json', @conf));
	$out = ctl('status', @conf);
	my %again = $views->(sub { console_rows($proxy, "SHOW $_[0]") });
	%shows = $views->(sub { @{ $said->{ $_[0] } } });
	return JSON::PP->new->canonical->encode(\%console) eq JSON::PP->new->canonical->encode(\%again);
});
is_deeply(\%shows, \%console, 'status as JSON says what the console says');
my ($keys) = $out =~ /^keys\n(.*?)\n\n/ms;
like($keys, qr/^  $_->{keyset} +$_->{key} .*\b$_->{key_id} +$_->{state}\b/m, "status shows the $_->{key} key") for @{ $console{keys} };
my ($standbys) = $out =~ /^standbys\n(.*?)\n\n/ms;
like($standbys, qr/\Q$_\E/, "... and of the standby $_") for map { my $r = $_; map { $r->{$_} } qw(node application_name state upstream timeline sent_lsn flush_lsn) } grep { $_->{application_name} eq 'blue' } @{ $console{standbys} };
$out = ctl('status', '--host', $proxy->host, '--port', $proxy->port, '--user', 'monitor', '--json');
is(join(' ', sort keys %{ decode_json($out) }), 'keys nodes sessions standbys stats status upstream', 'status without a configuration');
my ($watch, $werr) = ('', '');
my $run = IPC::Run::start([ $Walcrypt::ctl, 'status', '--watch', '--interval', 1, @conf ], '<', \undef, '>', \$watch, '2>', \$werr);
wait_for('the second look', sub { $run->pump_nb; (() = $watch =~ /^sessions$/mg) >= 2 });
ok(1, 'status --watch looks again');
# the same on a terminal: each look in the place of the one before
my ($screen, $serr) = ('', '');
my $terminal = IPC::Run::start([ $Walcrypt::ctl, 'status', '--watch', '--interval', 1, @conf ], '<', \undef, '>pty>', \$screen, '2>', \$serr);
wait_for('the second look', sub { $terminal->pump_nb; (() = $screen =~ /^stats\r?$/mg) >= 2 });
$terminal->signal('INT');
$terminal->finish;
my ($nothing, @looks) = split(/\e\[H\e\[J/, $screen);
is($nothing, '', 'status --watch on a terminal clears it first');
cmp_ok(scalar @looks, '>=', 2, '... and before each look');
like($looks[$_], qr/^status\r\n.*^nodes\r\n.*^standbys\r\n.*^ +(?:application_name +)?blue\b.*^sessions\r\n.*^keys\r\n.*^stats\r\n/ms, '... which shows all views') for 0, 1;
$proxy->restart;
my $looks = () = $watch =~ /^sessions$/mg;
wait_for('a look at the proxy that is back', sub { $run->pump_nb; $werr =~ /^WARNING:  / && (() = $watch =~ /^sessions$/mg) > $looks + 1 });
ok(1, '... and waits for a proxy that goes away');
$run->signal('INT');
$run->finish;
my ($standby) = grep { ($_->{application_name} // '') eq 'blue' } @{ $json->{standbys} };
is($standby->{system_identifier}, $json->{upstream}[0]{system_identifier}, 'JSON has the columns for which a terminal has no room');

# a port that is taken, and the wait for a checkpoint
{
	my $taken = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 1) or die $!;
	my $port = $taken->sockport;
	$red->append_conf('postgresql.conf', "checkpoint_timeout = 30s\nport = $port\n");
	$red->reload;
	($rc, $out, $err) = ctl_output('build', 'blue', '-D', "$tmp/taken", @conf, '--no-sync');
	is($rc, 0, 'build without a fast checkpoint') or diag($err);
	like($err, qr/begins with a checkpoint of the primary.*--checkpoint=fast/, '... says what it waits for');
	like($out, qr/^Port $port is in use on this machine.*-o '-p (?!$port')\d+' start$/ms, '... and finds another port');
}

# what the console says beyond the error
($rc, undef, $err) = ctl_output('status', '--host', $proxy->host, '--port', $proxy->port, '--user', 'blue');
is($rc, 4, 'status as a standby');
like($err, qr/^ERROR:  .*\n(?:DETAIL:  .*\n)?HINT:  /, '... shows the server\'s hint');

# tar format, and pg_basebackup's own idea of where the proxy is
($rc, $out, $err) = ctl_output('build', 'blue', '-D', "$tmp/tar", '--kek', $proxy->kek_uri, '-h', $proxy->host, '-p', $proxy->port, '-Ft', '--checkpoint=fast', '--no-sync');
is($rc, 0, 'build as tar files, without a configuration') or diag($err);
ok(-f "$tmp/tar/base.tar", '... there they are');

# the primary itself instead of the proxy: what comes is clear, and that is said
($rc, $out, $err) = ctl_output('build', (getpwuid($<))[0], '-D', "$tmp/clear", '--kek', $proxy->kek_uri, '-h', $red->host, '-p', $red->port, '--checkpoint=fast', '--no-sync');
is($rc, 6, 'build from a server that is no proxy');
like($err, qr/is not encrypted.*HINT:  Was it really the proxy/s, '... is found');
$blue->stop;
done_testing();
