# Goal: behind Debian's pgbouncer with the sample hook, a pgbench that runs through a whole rotation (a standby is built, the switchover) sees no
# error at all, only one slow transaction; walcrypt-ctl is killed in the middle and resumed. And the report: text, JSON and a picture with
# commits and lag, of both runs.
use strict;
use warnings;
use JSON::PP;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Walcrypt;

my ($pgbouncer) = grep { -x } '/usr/sbin/pgbouncer', '/usr/bin/pgbouncer';
plan skip_all => 'there is no pgbouncer' if !defined $pgbouncer;
my $tmp = PostgreSQL::Test::Utils::tempdir_short();
my $red = Walcrypt::Node->new('red');
my $blue = Walcrypt::Node->new('blue');
$red->init(allows_streaming => 1, extra => ['-k']);
$red->append_conf('postgresql.conf', "wal_retrieve_retry_interval = 200ms\nwal_keep_size = 256MB\nlog_statement = none\n");
$red->start;
$red->command_ok([ 'pgbench', '-iqs', 2, 'postgres' ], 'pgbench tables');
my $user = getpwuid($<);
my $port = PostgreSQL::Test::Cluster::get_free_port();
my $hook = "PGBOUNCER_DATABASES=$tmp/databases.ini PGBOUNCER_CONSOLE=\"host=$tmp port=$port user=$user\" sh conf/pgbouncer/walcrypt-hook";
PostgreSQL::Test::Utils::append_to_file("$tmp/databases.ini", "[databases]\napp = host=" . $red->host . ' port=' . $red->port . " dbname=postgres\n");
PostgreSQL::Test::Utils::append_to_file("$tmp/pgbouncer.ini", "%include $tmp/databases.ini\n[pgbouncer]\nlisten_port = $port\nunix_socket_dir = $tmp\nauth_type = any\nadmin_users = $user\n"
	. "auth_file = $tmp/users\npool_mode = transaction\nlogfile = $tmp/log\nignore_startup_parameters = extra_float_digits\n");
PostgreSQL::Test::Utils::append_to_file("$tmp/users", "\"$user\" \"\"\n");
# a database of auth_type any needs its user named
my $ini = slurp_file("$tmp/databases.ini");
$ini =~ s/dbname=postgres/dbname=postgres user=$user/;
unlink "$tmp/databases.ini";
PostgreSQL::Test::Utils::append_to_file("$tmp/databases.ini", $ini);
chmod(0640, "$tmp/databases.ini");
my $proxy = Walcrypt::Proxy->new(settings => { switchover_hook => "sh $tmp/hook" }, nodes => {
	red => { conninfo => $red->connstr_for_proxy, datadir => $red->data_dir },
	blue => { conninfo => $blue->connstr_for_proxy, datadir => $blue->data_dir, keyset => 'blue' } });
# the first time it is called it kills walcrypt-ctl; then it makes the pause longer than any that a busy machine makes by itself
PostgreSQL::Test::Utils::append_to_file("$tmp/hook", "[ -e $tmp/killed ] || { : >$tmp/killed; kill -9 \$(cat " . $proxy->keystore . "/switchover.lock); exit 1; }\n[ \$WALCRYPT_ACTION != switch ] || sleep 2\n$hook\n");
$proxy->key_init('blue');
$proxy->start;

my $bouncer = in_background("$tmp/out", $pgbouncer, "$tmp/pgbouncer.ini");
END { my $status = $?; kill('KILL', $bouncer) if defined $bouncer; $? = $status; }
my $app = "host=$tmp port=$port user=$user dbname=app";
wait_for('pgbouncer', sub { system("psql -XAtqc 'SELECT 1' -d '$app' >/dev/null 2>&1") == 0 });

# pgbench, again and again until it is told to stop
my $load = fork() // die;
if ($load == 0) {
	my $rc = 0;
	while (!-e "$tmp/stop" && $rc == 0) { $rc = system("pgbench -n -c 4 -t 300 -l --log-prefix=$tmp/transactions '$app' >>$tmp/bench 2>>$tmp/bench.err"); }
	POSIX::_exit($rc != 0);
}
my $done = sub { my $n = 0; $n += $_ for slurp_from("$tmp/bench") =~ /actually processed: (\d+)/g; return $n; };
wait_for('transactions', sub { $done->() >= 1200 });
my ($rc, $out, $err) = ctl_output('rotate', '--config', $proxy->conf, '--to', 'blue', '--report', "$tmp/report");
is($rc, 128 + 9, 'killed before the traffic is held') or diag($out, $err);
my $before = $done->();
my $killed = time();
wait_for('transactions in between', sub { $done->() >= $before + 1200 && time() > $killed + 2 });
my $resumed = time();
($rc, $out, $err) = ctl_output('rotate', '--config', $proxy->conf, '--resume');
my $over = time() + 1;
is($rc, 0, 'the rotation, resumed') or diag($out, $err);
print "# $_\n" for split(/\n/, $out);
$before = $done->();
wait_for('transactions on the new primary', sub { $done->() >= $before + 1200 });
PostgreSQL::Test::Utils::append_to_file("$tmp/stop", '');
waitpid($load, 0);
is($?, 0, 'pgbench has ended well each time');
is(slurp_from("$tmp/bench.err") =~ s/^pgbench \(.*\n//mgr, '', 'and saw no error at all');
is(join(' ', grep { $_ != 0 } slurp_from("$tmp/bench") =~ /failed transactions: (\d+)/g), '', 'no transaction has failed');
$blue->_update_pid(1);
is($blue->safe_psql('postgres', 'SELECT count(*) FROM pgbench_history'), $done->(), 'each transaction is there, once');
is($blue->safe_psql('postgres', 'SELECT (SELECT sum(delta) FROM pgbench_history) = (SELECT sum(abalance) FROM pgbench_accounts)'), 't', 'and the balances agree');
is(sprintf('%03o', (stat("$tmp/databases.ini"))[2] & 0777), '640', 'the file of databases can be read by whom it could before');

# a default port is one, too: on either side
mkdir "$tmp/bin";
append_to_file("$tmp/bin/psql", "#!/bin/sh\necho \"app|\$WALCRYPT_HOST|\${WALCRYPT_PORT:-5432}|\"\n");
chmod(0755, "$tmp/bin/psql");
sub repointed
{
	my ($line, $port) = @_;
	unlink "$tmp/plain.ini";
	append_to_file("$tmp/plain.ini", "[databases]\napp = $line\n");
	local @ENV{qw(PATH PGBOUNCER_DATABASES WALCRYPT_ACTION WALCRYPT_HOST WALCRYPT_PORT)} = ("$tmp/bin:$ENV{PATH}", "$tmp/plain.ini", 'switch', 'pg2', $port);
	system('sh', 'conf/pgbouncer/walcrypt-hook') == 0 or return 'failed';
	return (slurp_file("$tmp/plain.ini") =~ /^app = (.*)$/m)[0];
}
is(repointed('host=pg1 port=5433 dbname=app', ''), 'host=pg2 port=5432 dbname=app', 'the hook: a conninfo without a port');
is(repointed('dbname=app host=pg1', '5433'), 'dbname=app host=pg2 port=5433', '... and a database without one');
is(repointed('host=pg1 port=5432', '5433'), 'host=pg2 port=5433', '... and both with one');
# a file that pgbouncer cannot load is said: it would go on to the old primary
system_or_bail('sed', '-i', 's/^\[databases\]/&\nno such thing/', "$tmp/databases.ini");
my ($host, $old_port) = ($red->host, $red->port);
isnt(system("WALCRYPT_ACTION=switch WALCRYPT_HOST=$host WALCRYPT_PORT=$old_port $hook 2>$tmp/hook.err"), 0, 'the hook: what pgbouncer has not taken');
is(slurp_file("$tmp/hook.err"), "pgbouncer has not taken \"$tmp/databases.ini\": see its log\n", '... is said');

# the report
my $report = decode_json(slurp_file("$tmp/report.json"));
is("$report->{kind} $report->{from} $report->{to} $report->{state}", 'rotate red blue done', 'report.json');
cmp_ok($report->{write_pause_s}, '>=', $report->{at}{promoted} - $report->{at}{stopped}, "the write pause was measured: $report->{write_pause_s} s");
is(sprintf('%.3f', $report->{write_pause_s}), sprintf('%.3f', $report->{pause_end} - $report->{pause_begin}), '... by what was seen of transactions');
# client, its transaction, microseconds that it took, script, when it ended ...; of the resumed rotation: a busy machine is slow at other times, too
my $hold = $report->{at}{moved} - $report->{at}{quiet};
my @slow = grep { $_->[2] >= 0.9e6 * $hold && $_->[4] >= $resumed && $_->[4] <= $over } map { [ split(/ /) ] } map { split(/\n/, slurp_from($_)) } glob("$tmp/transactions.*");
my %held = map { $_->[0] => 1 } @slow;
cmp_ok(scalar(@slow), '>', 0, sprintf('traffic was held for %.2f s', $hold));
is(scalar(@slow), scalar(keys %held), '... and each client saw one slow transaction at most');
my $commits = 0;
$commits += $_ for @{ $report->{commits_per_100ms} };
cmp_ok($commits, '>', 100, 'commits before and after');
cmp_ok(scalar(@{ $report->{lag_bytes} }), '>', 20, 'lag');
cmp_ok(scalar(grep { $_->[1] > 0 } @{ $report->{lag_bytes} }), '>', 0, '... which there is under load');
cmp_ok($report->{samples_begin}, '<', $report->{at}{slots}, 'what the first run saw, from before its first step');
my @gaps = grep { $_->[0] < $killed + 1 && $_->[1] > $killed + 1 } @{ $report->{gaps} };
is(scalar @gaps, 1, '... and when nobody looked');
ok(!-e $proxy->keystore . '/switchover.samples', '... which is kept no longer');
like($report->{checkpoint}, qr{^[0-9A-F]+/[0-9A-F]+$}, 'the proof');
like(slurp_file("$tmp/report.txt"), qr/"blue" is the primary, on timeline 2\..*write pause/s, 'report.txt');
my $svg = slurp_file("$tmp/report.svg");
like($svg, qr{^<svg xmlns="http://www.w3.org/2000/svg".*>nobody looked</text>.*commits per 100 ms.*replication lag of the target.*>stopped</text>.*>promoted</text>.*</svg>$}s, 'report.svg');
cmp_ok(scalar(() = $svg =~ /<rect /g), '>', 20, 'with a bar for each tenth of a second');
is(system('python3', '-c', 'import sys, xml.dom.minidom; xml.dom.minidom.parse(sys.argv[1])', "$tmp/report.svg"), 0, 'it is XML');
unlike($svg, qr/href|<script|url\(/, 'that needs nothing else');
if (defined $ENV{WALCRYPT_WORK} && mkdir("$ENV{WALCRYPT_WORK}/tmp_check/log/report_605")) { system('cp', "$tmp/report.$_", "$ENV{WALCRYPT_WORK}/tmp_check/log/report_605/") for qw(svg json txt); }

# an abort gives the traffic back
$red->_update_pid(0);
$blue->stop;
done_testing();
