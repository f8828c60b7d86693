# walcrypt-ctl doctor: a healthy primary, proxy and encrypted standby; then each thing that it looks for, brought about for real.
use strict;
use warnings;
use JSON::PP;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Walcrypt;
use Walcrypt::Certificates;

my $tmp = $PostgreSQL::Test::Utils::tmp_check . '/doctor';
mkdir $tmp, 0700;
my $certificates = Walcrypt::Certificates->new("$tmp/certificates");
$certificates->authority('ca');
$certificates->make('proxy', ca => 'ca', cn => 'localhost', days => 200);
$certificates->make('soon', ca => 'ca', cn => 'localhost', days => 5);
$certificates->make('late', ca => 'ca', cn => 'localhost', days => -1);

# Without a configuration it looks at the machine.
{
	local $ENV{WALCRYPT_CONFIG};
	delete $ENV{WALCRYPT_CONFIG};
	my ($rc, $out) = ctl_output('doctor');
	is($rc, 0, 'no configuration: the machine alone');
	like($out, qr/^host\n  (?:ok|warning) +the processor has (?:no )?AES/, '... is looked at');
	like($out, qr/memory may be locked/, '... its limit of locked memory');
	like($out, qr/^  \S+ +(?:nothing keeps the clock right|the clock is kept right)/m, '... its clock');
	like($out, qr/^  \S+ +.*SELinux/m, '... SELinux');
	unlike($out, qr/^configuration/m, '... nothing else');
	($rc, $out) = ctl_output('doctor', "$tmp/none");
	is($rc, 1, 'a directory that is none');
	like($out, qr{data directory .*/none\n  problem  it could not be looked at: No such file}, '... is a problem');
	IPC::Run::run([ 'sh', '-c', 'ulimit -l 64 && exec "$0" doctor', $Walcrypt::ctl ], '<', \undef, '>', \$out, '2>', \my $err);
	is($? >> 8, 1, '64 kB of locked memory are a problem');
	like($out, qr/problem  64 kB of memory may be locked here, and the proxy needs 4096\n +HINT:  Set LimitMEMLOCK=/, '... with what to do');
}

my $red = Walcrypt::Node->new('red');
$red->init(allows_streaming => 1, extra => ['-k']);
$red->append_conf('postgresql.conf', "max_slot_wal_keep_size = 1GB\n");
$red->start;
my $proxy = Walcrypt::Proxy->new(
	settings => {
		client_tls_sslmode => 'allow', client_tls_cert_file => $certificates->file('proxy.crt'), client_tls_key_file => $certificates->file('proxy.key') },
	nodes => { red => { conninfo => $red->connstr_for_proxy, datadir => $red->data_dir }, blue => { keyset => 'blue' } });
my @conf = ('--config', $proxy->conf);
$proxy->key_init('blue');
$proxy->start;
my $blue = Walcrypt::Node->new('blue');
$blue->init_from_proxy($proxy, 'blue');
$blue->start;
$proxy->{nodes}{blue}{datadir} = $blue->data_dir;
$proxy->write_conf;

# What is said about all of it, as LEVEL AREA: TEXT.
sub doctor
{
	my ($rc, $out, $err) = ctl_output('doctor', '--json', @conf, @_);
	my $list = eval { decode_json($out) } // [];
	return ($rc, join('', map { "$_->{level} $_->{area}: $_->{text}" . ($_->{hint} ? " HINT $_->{hint}" : '') . "\n" } @$list), $err, $list);
}
sub finds
{
	my ($status, $words, $name, @args) = @_;
	my ($rc, $text) = doctor(@args);
	is($rc, $status, "$name: exit status");
	like($text, $words, "$name: is found") or diag($text);
	return;
}

{
	my ($rc, $text, $err, $list) = doctor();
	is($rc, 0, 'all is in order') or diag($text);
	unlike($text, qr/^problem/m, '... no problem');
	my %pid = map { $_->name => (split /\n/, slurp_file($_->data_dir . '/postmaster.pid'))[0] } $red, $blue;
	for my $words (qr/^ok configuration \S+: it is sound/m, qr/^ok configuration \S+: the certificate of client_tls_cert_file is good for (?:199|200) days/m,
		qr/^ok configuration \S+: client_tls_key_file "\S+" is its owner's alone/m, qr/^ok keystore \S+: it is its owner's alone/m,
		qr/^ok keyset blue: the cluster key came from file:\S+ in \d+ ms and opens it: relation key [0-9a-f]{16}/m, qr/^ok proxy: it answers: walcrypt-proxy/m,
		qr/^ok node red: PostgreSQL 15\.\d+, a primary on timeline 1/m, qr/^ok node red: data checksums are on/m, qr/^ok node red: its clock agrees/m,
		qr/^ok data directory \S+: server $pid{red} runs without the storage layer, on clear files/m,
		qr/^ok data directory \S+: server $pid{blue} runs under the storage layer/m,
		qr/^ok data directory \S+: a server without the storage layer would not start/m,
		qr/^ok data directory \S+: the cluster key came from .* and opens it/m) {
		like($text, $words, "... $words");
	}
	my ($prc, $out) = ctl_output('doctor', @conf);
	like($out, qr/\n\d+ in order, \d+ notes, \d+ warnings, 0 problems\n\z/, 'as text it ends with the counts');
	is(scalar(grep { /^  (?:ok|note|warning|problem) / } split /\n/, $out), scalar(@$list), '... and has a line for each of JSON\'s');
	unlike($out, qr/[0-9a-f]{64}/, '... and no key');
}

# files
chmod 0644, $proxy->conf;
finds(0, qr/^note configuration \S+: everybody may read it HINT chmod 640/m, 'a configuration that everybody may read');
chmod 0600, $proxy->conf;
chmod 0644, $certificates->file('proxy.key');
finds(1, qr/^problem configuration \S+: client_tls_key_file "\S+" has mode 0644 HINT chmod 600/m, 'a private key that others may read');
chmod 0600, $certificates->file('proxy.key');
for ([ 'soon', 0, qr/^warning configuration \S+: the certificate of client_tls_cert_file is good for [45] days HINT Put a new one/m ],
	[ 'late', 1, qr/^problem configuration \S+: the certificate of client_tls_cert_file has expired HINT Put a new one/m ]) {
	my ($name, $status, $words) = @$_;
	$proxy->{settings}{client_tls_cert_file} = $certificates->file("$name.crt");
	$proxy->write_conf;
	finds($status, $words, "the certificate $name");
}
$proxy->{settings}{client_tls_cert_file} = $certificates->file('proxy.crt');
$proxy->write_conf;

# keys
rename $proxy->{kek}, "$proxy->{kek}.away" or die;
finds(1, qr/^problem keyset blue: could not open cluster key file/m, 'no cluster key');
Walcrypt::kek_file($proxy->{kek});
finds(1, qr/^problem keyset blue: .*(?:wrong|another|not).*cluster key|^problem keyset blue: cluster key/m, 'another cluster key');
rename "$proxy->{kek}.away", $proxy->{kek} or die;
chmod 0755, $proxy->keystore;
finds(1, qr/^problem keystore \S+: /m, 'a keystore that others may look into');
chmod 0700, $proxy->keystore;
$proxy->{nodes}{green} = { keyset => 'green' };
$proxy->write_conf;
finds(1, qr/^problem keystore \S+: "green" has no keyset "green" yet HINT "walcrypt-ctl key init"/m, 'a keyset that is not there');
$proxy->{nodes}{green} = { keyset => 'auto' };
$proxy->write_conf;
finds(0, qr/^note keystore \S+: "green" has no keys yet: its first base backup makes them/m, 'one that the proxy will make');
delete $proxy->{nodes}{green};
$proxy->write_conf;
ctl(qw(key new-epoch blue), @conf);
finds(0, qr/^note keyset blue: it has 2 WAL epochs HINT "walcrypt-ctl key retire"/m, 'an epoch to retire');

# servers
$red->safe_psql('postgres', "SELECT pg_create_physical_replication_slot('lonely', true); ALTER SYSTEM SET full_page_writes = off; ALTER SYSTEM SET max_slot_wal_keep_size = -1");
$red->reload;
wait_for('the settings', sub { $red->safe_psql('postgres', 'SHOW full_page_writes') eq 'off' });
my (undef, $text) = doctor();
like($text, qr/^warning node red: nobody reads slot "lonely", which holds back .* of WAL HINT Start what reads it, or drop it/m, 'a slot that nobody reads');
like($text, qr/^warning node red: full_page_writes is off HINT/m, 'full_page_writes off');
like($text, qr/^warning node red: max_slot_wal_keep_size is -1 HINT/m, 'slots without a limit');
$proxy->stop;
finds(0, qr/^warning proxy: could not reach the proxy/m, 'no proxy');
$red->stop;
finds(1, qr/^problem node red: could not reach node "red": .* HINT /m, 'no server');
finds(1, qr/^ok data directory \S+: no server runs in it/m, 'a stopped server');
$red->command_ok([ 'pg_checksums', '--disable', '-D', $red->data_dir ], 'checksums off');
finds(1, qr/^note data directory \S+: it has no data checksums/m, 'a clear directory without checksums');
$red->start;
finds(1, qr/^problem node red: data checksums are off: no base backup of it is served HINT/m, 'a server without checksums');

# an encrypted directory in which a stock server runs: clear files with a key directory beside them
system_or_bail('cp', '-a', $blue->data_dir . '/pg_cryptokeys', $red->data_dir . '/pg_cryptokeys');
(undef, $text) = doctor();
like($text, qr/^problem data directory \S+: server \d+ runs without the storage layer: what it writes is in clear .* HINT Stop it with "pg_ctl stop -m immediate"/m,
	'a server without the layer');
like($text, qr/^problem data directory \S+: postgresql\.auto\.conf does not name the storage layer: .* HINT Put it back/m, 'no guard');
like($text, qr/^warning data directory \S+: it has no data checksums: nothing tells a damaged page from a good one HINT Stop it/m, 'encrypted without checksums');
$red->stop('immediate');
$blue->stop;
chmod 0755, $blue->data_dir;
finds(1, qr/^problem data directory \S+: it has mode 0755 HINT chmod 700/m, 'a directory that others may look into');
chmod 0700, $blue->data_dir;
append_to_file($proxy->conf, "nonsense\n");
finds(1, qr/^problem configuration: .*walcrypt\.ini/m, 'a wrong configuration');
done_testing();
