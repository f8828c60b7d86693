# Goal: conf/prometheus and conf/grafana fit the metrics that there are: promtool takes the rules, each alert fires on what it is for, a real
# Prometheus server scrapes a real proxy with a standby behind it and has an answer to each panel's query.
use strict;
use warnings;
use JSON::PP;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Walcrypt;
use Walcrypt::Certificates;
use Walcrypt::Console;

my $tmp = $PostgreSQL::Test::Utils::tmp_check . '/monitoring';
mkdir $tmp, 0700;
my $conf = 'conf/prometheus';

sub run_ok
{
	my ($name, @command) = @_;
	my ($out, $err) = ('', '');
	ok(IPC::Run::run(\@command, '<', \undef, '>', \$out, '2>', \$err), $name) or diag($out . $err);
	return $out . $err;
}
run_ok('promtool takes the rules', qw(promtool check rules), "$conf/walcrypt-alerts.yml");
run_ok('and the configuration', qw(promtool check config), "$conf/prometheus.yml");
run_ok('each alert fires on what it is for', qw(promtool test rules), "$conf/walcrypt-alerts-test.yml");
my $rules = slurp_file("$conf/walcrypt-alerts.yml");
my $tests = slurp_file("$conf/walcrypt-alerts-test.yml");
my @alerts = $rules =~ /^\s+- alert: (\w+)$/mg;
cmp_ok(scalar(@alerts), '>=', 14, 'alerts');
like($tests, qr/alertname="$_",alertstate="firing"\}\)?', eval_time: \w+, exp_samples: \[\{/, "$_ is tried") for @alerts;
{
	# the tests can fail
	system_or_bail('cp', "$conf/walcrypt-alerts-test.yml", $tmp);
	open(my $f, '>', "$tmp/walcrypt-alerts.yml") or die;
	print $f $rules =~ s/walcrypt_upstream_up == 0/walcrypt_upstream_up == 2/r;
	close $f;
	ok(!IPC::Run::run([ qw(promtool test rules), "$tmp/walcrypt-alerts-test.yml" ], '<', \undef, '>&', \my $out), 'a rule that never fires is found');
}

# a proxy with all that there can be: TLS, a standby, a base backup, an error
my $certificates = Walcrypt::Certificates->new("$tmp/certificates");
$certificates->authority('ca');
$certificates->make('proxy', ca => 'ca', cn => 'localhost');
my ($red, $blue) = map { Walcrypt::Node->new($_) } qw(red blue);
$red->init(allows_streaming => 1, extra => ['-k']);
# neither backup's checkpoint may take what the standby has not got yet
$red->append_conf('postgresql.conf', "wal_keep_size = 128MB\n");
$red->start;
my ($http, $port) = map { PostgreSQL::Test::Cluster::get_free_port() } 1 .. 2;
my $proxy = Walcrypt::Proxy->new(nodes => { red => { conninfo => $red->connstr_for_proxy }, blue => { keyset => 'blue' } },
	settings => { http_listen => "127.0.0.1:$http", client_tls_sslmode => 'allow', client_tls_cert_file => $certificates->file('proxy.crt'),
		client_tls_key_file => $certificates->file('proxy.key') });
$proxy->key_init('blue');
$proxy->start;
$blue->init_from_proxy($proxy, 'blue');
$blue->append_conf('postgresql.conf', "wal_receiver_status_interval = 1s\n");
$blue->start;
$red->safe_psql('postgres', 'CREATE TABLE t AS SELECT generate_series(1, 10000) i');
$red->wait_for_catchup('blue', 'replay', $red->lsn('insert'));
# a base backup that goes on as long as we look
my $backup = IPC::Run::start([ 'pg_basebackup', '-D', "$tmp/slow", '-d', $proxy->connstr('blue'), '--checkpoint=fast', '--no-sync', '--max-rate=32k', '-Xnone' ], '<', \undef, '>&', \my $said);

# every metric that is named, exists
my $dashboard = decode_json(slurp_file('conf/grafana/walcrypt.json'));
my @queries = map { my $p = $_; map { [ $p->{title}, $_->{expr} ] } @{ $p->{targets} } } @{ $dashboard->{panels} };
my ($body, %have);
wait_for('the base backup', sub { $body = (http_get($http, '/metrics'))[2]; $body =~ /^walcrypt_base_backup_bytes\{/m });
$have{$1} = 1 while $body =~ /^# TYPE (\w+) /mg;
my %named = map { $_ => 1 } map { /\b((?:walcrypt|process)_\w+)/g } map({ $_->[1] } @queries), $rules =~ /^\s+expr: (.*)$/mg,
  map { $_->{definition} =~ /label_values\((\w+)/ ? $1 : () } @{ $dashboard->{templating}{list} }[ 1, 2 ];
ok($have{$_}, "$_ exists") for sort keys %named;
for my $metric (sort grep { /^walcrypt_/ } keys %have) {
	ok($named{$metric} || $metric =~ /_(?:info|lsn|connections_total|streams_total|stream_end|base_backups_total|primary|last_commit_timestamp_seconds)$/, "$metric is looked at");
}
is(scalar(grep { defined $_->{gridPos} && $_->{gridPos}{x} + $_->{gridPos}{w} <= 24 } @{ $dashboard->{panels} }), scalar @{ $dashboard->{panels} }, 'panels are in the grid');

# a server that scrapes it
open(my $f, '>', "$tmp/prometheus.yml") or die;
print $f "global:\n  evaluation_interval: 1s\n" . slurp_file("$conf/prometheus.yml") =~ s/15s/1s/r =~ s/127\.0\.0\.1:9634/127.0.0.1:$http/r =~ s{walcrypt-alerts\.yml}{$tmp/rules.yml}r;
close $f;
system_or_bail('cp', "$conf/walcrypt-alerts.yml", "$tmp/rules.yml");
my $server = IPC::Run::start([ 'prometheus', "--config.file=$tmp/prometheus.yml", "--storage.tsdb.path=$tmp/tsdb", "--web.listen-address=127.0.0.1:$port" ], '<', \undef, '>&', \my $log);
END { my $status = $?; $server->kill_kill if $server; $backup->kill_kill if $backup; $? = $status; }

# What the server says to a request, decoded.
sub api
{
	my ($path, @data) = @_;
	my $out = '';
	IPC::Run::run([ 'curl', '-sS', '-G', map({ ('--data-urlencode', $_) } @data), "http://127.0.0.1:$port/api/v1/$path" ], '<', \undef, '>', \$out, '2>', \my $err);
	return eval { decode_json($out) } // { data => { result => [] } };
}
sub query { return api('query', "query=$_[0]"); }
wait_for('three scrapes', sub { my $r = query('count_over_time(walcrypt_info[1m])'); @{ $r->{data}{result} } && $r->{data}{result}[0]{value}[1] >= 3 });
for (@queries) {
	my ($title, $expr) = @$_;
	$expr =~ s/\$__rate_interval/1m/g;
	$expr =~ s/"\$(?:instance|node)"/".*"/g;
	unlike($expr, qr/\$/, "$title: nothing is left to fill in");
	# a scrape that a busy machine missed leaves nothing for a moment
	my $r;
	eval { wait_for('something to show', sub { $r = query($expr); return ($r->{status} // '') eq 'success' && ($title =~ /^Errors/ || @{ $r->{data}{result} }); }, 60) };
	is($r->{status}, 'success', "$title: an answer") or diag($expr . ' ' . ($r->{error} // ''));
	next if $title =~ /^Errors/; # none so far
	cmp_ok(scalar @{ $r->{data}{result} }, '>', 0, "$title: something to show") or diag($expr);
}
sub loaded { return map { @{ $_->{rules} } } @{ api('rules')->{data}{groups} }; }
is(scalar(loaded()), scalar(@alerts), 'the server has the alerts');
# each has looked at what was scraped: until then none is on
my $scraped = (sort map { $_->{lastEvaluation} } loaded())[-1];
wait_for('the alerts to have been looked at again', sub { !grep { $_->{health} ne 'ok' || $_->{lastEvaluation} le $scraped } loaded() });
# a scrape that a busy machine missed is an alert for a moment: what is wrong stays
my @on;
eval { wait_for('every alert to be off', sub { @on = map { $_->{name} } grep { $_->{state} ne 'inactive' } loaded(); return !@on; }, 90) };
is("@on", '', 'and none is on');

# an alert on a real event: the upstream goes away, and the standby with it
$backup->kill_kill;
undef $backup;
$red->stop;
wait_for('the alert', sub {
	my ($one) = grep { $_->{name} eq 'WalcryptUpstreamDown' } loaded();
	$one && $one->{state} ne 'inactive';
});
ok(1, 'a lost upstream is seen');
$server->kill_kill;
undef $server;
$blue->stop;
$proxy->stop;
done_testing();
