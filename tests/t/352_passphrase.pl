# The cluster key under a passphrase: from a file, the terminal, and PGENCRYPTIONKEY, which nothing of it is left of in a server that
# was started with it; wrong ones, open files, damage. Each fault has its own words and its own exit status.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Walcrypt;
use Walcrypt::KeyCommands;
use Walcrypt::Terminal;

my $tmp = $PostgreSQL::Test::Utils::tmp_check . '/passphrase';
mkdir $tmp, 0700;
never_said(qr/horse/);
my $secret = 'correct horse battery staple';

my $file = put("$tmp/secret", "$secret\n");
my $conf = put("$tmp/w.ini", "[walcrypt]\nauth_type = trust\nkeystore = $tmp/ks\n[kek site]\nuri = passphrase:$file\n"
	  . "[node red]\nconninfo = host=$tmp port=1\nkeyset = none\n[node blue]\nkeyset = blue\nkek = site\n");
my @verify = (qw(key verify blue --config), $conf, '--kek');
ctl(qw(key init blue --system-identifier 7000000000000000001 --config), $conf);
like(ctl(qw(key verify blue --config), $conf), qr/opens it/, 'a key directory under a passphrase');
like(ctl(qw(key show blue --config), $conf), qr/^provider +passphrase:\Q$file\E$/m, 'key show names the file');
is(-s "$tmp/ks/blue/live/kek.wrapped", 152, 'the cluster key lies there, sealed');
is(files_containing($secret, "$tmp/ks"), 0, '... and the passphrase does not');

refused(5, qr/the passphrase does not open the wrapped cluster key/, 'another passphrase', @verify, 'passphrase:' . put("$tmp/other", "wrong horses\n"));
refused(4, qr/could not open passphrase file "$tmp\/none"/, 'no file', @verify, "passphrase:$tmp/none");
refused(6, qr/has mode 0644: others may read or write it\nHINT:  .*chmod 0600/, 'a file for all', @verify, 'passphrase:' . put("$tmp/open", "$secret\n", 0644));
refused(2, qr/the passphrase is empty/, 'an empty file', @verify, 'passphrase:' . put("$tmp/empty", ''));
refused(2, qr/does not say where the passphrase comes from\nHINT:  passphrase:ask/, 'the passphrase itself', @verify, 'passphrase:wonderful');
refused(4, qr/there is no terminal to ask for the passphrase on\nHINT:  Start it from a terminal/, 'no terminal', @verify, 'passphrase:ask');
refused(4, qr/PGENCRYPTIONKEY is not set/, 'no variable', @verify, 'passphrase:PGENCRYPTIONKEY');
refused(1, qr/holds no cluster key wrapped by/, 'a keyset from elsewhere', do {
	kek_file("$tmp/kek");
	ctl(qw(key init green --system-identifier 7000000000000000001 --config), $conf, '--kek', "file:$tmp/kek");
	(qw(key verify green --config), $conf);
});
refused(2, qr/a new passphrase must have at least 8 bytes/, 'a short one', qw(key alter blue --config), $conf, '--new-kek', 'passphrase:' . put("$tmp/short", "horse\n"));

# another passphrase, and back to a file
ctl(qw(key alter blue --config), $conf, '--new-kek', "passphrase:$tmp/other");
like(ctl(@verify, "passphrase:$tmp/other"), qr/opens it/, 'key alter: another passphrase');
refused(5, qr/the passphrase does not open/, 'key alter: not the old one', @verify, "passphrase:$file");
ctl(qw(key alter blue --config), $conf, '--kek', "passphrase:$tmp/other", '--new-kek', "passphrase:$file");

# damage
my $wrapped = slurp_file("$tmp/ks/blue/live/kek.wrapped");
for my $t ([ 'a byte changed', substr($wrapped, 0, 100) . chr(ord(substr($wrapped, 100, 1)) ^ 1) . substr($wrapped, 101), 3 ],
	[ 'cut off', substr($wrapped, 0, 90), 3 ], [ 'of another kind', 'vault:v1:AAAA', 3 ]) {
	put("$tmp/ks/blue/live/kek.wrapped", $t->[1]);
	refused($t->[2], qr/wrapped cluster key|kek\.wrapped/, $t->[0], qw(key verify blue --config), $conf);
}
put("$tmp/ks/blue/live/kek.wrapped", $wrapped);

# the terminal
{
	my (undef, $seen, $out, $err) = on_terminal([ [ qr/Passphrase for the cluster key: $/, "$secret\n" ] ], @verify, 'passphrase:ask');
	like($seen, qr/^Passphrase for the cluster key: <answered>/, 'asked on the terminal');
	like($out, qr/opens it/, '... and it opens') or diag $err;
	unlike($seen . $out . $err, qr/horse/, '... without an echo');
	my $slow = put("$tmp/slow.ini", slurp_file($conf) =~ s/^uri = .*$/uri = passphrase:ask\ntimeout = 700ms/mr);
	(undef, $seen, $out, $err) = on_terminal([], qw(key verify blue --config), $slow);
	like($err, qr/no passphrase was typed in time/, 'nothing typed');
}

# a keyset, a cluster and a server made and started with PGENCRYPTIONKEY
{
	my $data = "$tmp/data";
	my $port = PostgreSQL::Test::Cluster::get_free_port();
	my @variable = qw(--kek passphrase:PGENCRYPTIONKEY);
	refused(4, qr/PGENCRYPTIONKEY is not set/, 'initdb without the variable', 'initdb', '-D', $data, @variable);
	ok(!-e $data && !glob("$data.keys.*"), '... makes nothing');
	local $ENV{PGENCRYPTIONKEY} = $secret;
	ctl(qw(key init red --system-identifier 7000000000000000001 --config), $conf, @variable);
	like(ctl(qw(key verify red --config), $conf), qr/opens it/, 'key init: the same passphrase in a file opens it');
	like(ctl('initdb', '-D', $data, @variable, '--', '-A', 'trust'), qr/The cluster is encrypted/, 'initdb');
	like(ctl('key', 'verify', '-D', $data, '--kek', "passphrase:$file"), qr/opens it/, '... and the passphrase in a file');
	is(files_containing($secret, $data), 0, '... which is nowhere in it');
	like(ctl('key', 'verify', '-D', $data, '--kek', 'passphrase:PGENCRYPTIONKEY'), qr/opens it/, 'PGENCRYPTIONKEY');
	my ($rc, $out, $err) = ctl_output('exec', '-D', $data, '--kek', 'passphrase:PGENCRYPTIONKEY', '--', 'pg_ctl', '-D', $data, '-w', '-l', "$tmp/log",
		'-o', "-p $port -k $tmp -c listen_addresses=''", 'start');
	is($rc, 0, 'a server starts with it') or diag slurp_file("$tmp/log");
	delete local $ENV{PGENCRYPTIONKEY};
	my ($pid) = slurp_file("$data/postmaster.pid") =~ /^(\d+)/;
	my $children = slurp_file("/proc/$pid/task/$pid/children");
	ok(!grep({ slurp_file("/proc/$_/environ") =~ /horse/ } $pid, split(' ', $children)), 'nothing of it is left in the environments of its processes');
	is(`psql -XAtq -h $tmp -p $port -c "copy (select 1) to program 'env > $tmp/env'" postgres; grep -c horse $tmp/env`, "0\n", '... nor of its commands');
	system_or_bail('pg_ctl', '-D', $data, '-w', '-m', 'fast', 'stop');
}

# build: the variable is taken before pg_basebackup is started
{
	my $red = Walcrypt::Node->new('red');
	$red->init(allows_streaming => 1, extra => ['-k']);
	$red->start;
	my $proxy = Walcrypt::Proxy->new(kek_uri => "passphrase:$file", nodes => { red => { conninfo => $red->connstr_for_proxy }, blue => { keyset => 'blue' } });
	$proxy->key_init('blue');
	$proxy->start;
	my @build = ('build', 'blue', '-D', "$tmp/blue", qw(--kek passphrase:PGENCRYPTIONKEY --checkpoint=fast --no-sync --config), $proxy->conf);
	refused(4, qr/PGENCRYPTIONKEY is not set/, 'build without the variable', @build);
	local $ENV{PGENCRYPTIONKEY} = $secret;
	{
		# in its place, a program that tells what it got; the control: a variable that it must get
		mkdir "$tmp/bin";
		chmod 0755, put("$tmp/bin/pg_basebackup", "#!/bin/sh\nenv >$tmp/backup.env\nexit 1\n");
		local $ENV{WALCRYPT_PG_BINDIR} = "$tmp/bin";
		local $ENV{WALCRYPT_TEST_CONTROL} = 'seen';
		is((ctl_output(@build))[0], 1, 'build with another pg_basebackup');
		like(slurp_file("$tmp/backup.env"), qr/^WALCRYPT_TEST_CONTROL=seen$/m, '... which has an environment');
		unlike(slurp_file("$tmp/backup.env"), qr/horse|PGENCRYPTIONKEY=/, '... without the passphrase');
	}
	like(ctl(@build), qr/Standby "blue" is built, encrypted/, 'build');
	$proxy->stop;
	$red->stop;
}
done_testing();
