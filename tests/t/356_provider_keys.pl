# Cluster keys where they are kept: listed (names, versions, states, never a key) and destroyed, by each provider that can: a keeper, a
# file, KMIP, a token, Vault's KV 1, KV 2 and transit. A key that is needed stays; one that is not goes when its id is typed on a terminal.
use strict;
use warnings;
use Cwd ();
use JSON::PP;
use PostgreSQL::Test::Utils;
use Test::More;
use Walcrypt;
use Walcrypt::KeyCommands;
use Walcrypt::Kmip;
use Walcrypt::Terminal;
use Walcrypt::Vault;

my $tmp = $PostgreSQL::Test::Utils::tmp_check . '/keys356';
mkdir $_, 0700 for $tmp, "$tmp/tokens", "$tmp/files";
my $n = 0;


my $bao = Walcrypt::Vault->new(name => 'keys');
$bao->enable('transit', 'secrets', 'transit');
$bao->enable('old', 'secrets', 'kv', '-version=1');
my $kmip = Walcrypt::Kmip->new(name => 'keys');
my ($module) = grep { -e } '/usr/lib/softhsm/libsofthsm2.so', glob('/usr/lib/*/softhsm/libsofthsm2.so');
$ENV{SOFTHSM2_CONF} = put("$tmp/softhsm2.conf", "directories.tokendir = $tmp/tokens\nobjectstore.backend = file\nlog.level = ERROR\n");
system_or_bail('softhsm2-util', '--init-token', '--free', '--label', 'walcrypt', '--pin', '471111', '--so-pin', '815815');
my $pin = put("$tmp/pin", "471111\n");
my $keeper = 'exec perl ' . Cwd::getcwd() . "/conf/external/keeper.pl $tmp/keeper";

# provider => [ URI of a name, how its list shows a name, version and state ]
my @providers = (
	[ 'external:',      sub { "external:$_[0]:$keeper" },                                           sub { [ $_[0], '', '' ] } ],
	[ 'file:',          sub { "file:$tmp/files/$_[0]" },                                            sub { [ "$tmp/files/$_[0]", '', '' ] } ],
	[ 'kmip:',          sub { $kmip->uri($_[0]) },                                                  sub { [ $_[0], qr/^\d+$/, 'active' ] } ],
	[ 'pkcs11:',        sub { "pkcs11:token=walcrypt;object=$_[0]?module-path=$module&pin-source=$pin" }, sub { [ $_[0], '', '' ] } ],
	[ 'vault-kv: 1',    sub { $bao->uri('vault-kv', "old/site/$_[0]") },                            sub { [ "old/site/$_[0]", '', '' ] } ],
	[ 'vault-kv: 2',    sub { $bao->uri('vault-kv', "secret/site/$_[0]") },                         sub { [ "secret/site/$_[0]", '1', '' ] } ],
	[ 'vault-transit:', sub { $bao->uri('vault-transit', "transit/$_[0]") },                        sub { [ "transit/$_[0]", '1', 'protected from deletion' ] } ],
);
for my $p (@providers) {
	my ($name, $uri, $row) = @$p;
	my $envelope = $name =~ /pkcs11|transit/;
	my $conf = put("$tmp/c" . ++$n . '.ini', "[walcrypt]\nauth_type = trust\nkeystore = $tmp/ks$n\n[kek site]\nuri = " . $uri->('spare') . "\n[node blue]\nkeyset = blue\nkek = site\n");
	my @conf = ('--config', $conf);
	my $show = sub {
		my ($what, @names) = @_;
		note "$name $what";
		unlike(ctl(qw(key list --kek), $uri->('spare'), @conf), qr/\b[0-9a-f]{64}\b/, "$name: no key is shown");
		my @got = map { [ @{$_}{qw(name version state)} ] } @{ decode_json(ctl(qw(key list --json --kek), $uri->('spare'), @conf)) };
		@got = sort { $a->[0] cmp $b->[0] } @got;
		my @want = map { $row->($_) } @names;
		for my $i (0 .. $#want) { $want[$i][1] = $got[$i][1] if ref $want[$i][1] && ($got[$i][1] // '') =~ $want[$i][1]; }
		is_deeply(\@got, \@want, "$name: $what");
		return;
	};
	$show->('none is there');
	ctl(qw(key init blue --create-kek --system-identifier 7000000000000000001 --kek), $uri->('main'), @conf);
	ctl(qw(key init green --create-kek --own-wal-key --system-identifier 7000000000000000002 --kek), $uri->('spare'), @conf);
	$show->('two are', qw(main spare));
	my $rows = ctl(qw(key list --kek), $uri->('spare'), @conf);
	like($rows, qr/^cluster key +version +state\n/, "$name: as rows");
	like(refused(6, qr/is needed\nHINT:  --force/, "$name: one that is needed", qw(key destroy --kek), $uri->('spare'), @conf), qr/^needed by keyset green$/m, '... by what');
	refused(6, qr/there is no terminal to confirm it on/, "$name: not by --force alone", qw(key destroy --force --kek), $uri->('spare'), @conf);
	ctl(qw(key alter green --kek), $uri->('spare'), '--new-kek', $uri->('main'), @conf);
	like(ctl(qw(key destroy --dry-run --kek), $uri->('spare'), @conf), qr/0 things need it\. Nothing was changed/, "$name: a dry run");
	refused(6, qr/there is no terminal/, "$name: needed by nothing", qw(key destroy --kek), $uri->('spare'), @conf);
	my $type = qr/Type (\S+) to do it: \z/;
	my ($status, $seen, $out, $err) = on_terminal([ [ $type, "no\n" ] ], qw(key destroy --kek), $uri->('spare'), @conf);
	is($status >> 8, 6, "$name: another word is typed");
	$show->('it stays', qw(main spare));
	my ($word) = $seen =~ /Type (\S+) to do it/;
	like($word, $envelope ? qr/^destroy$/ : qr/^[0-9a-f]{16}$/, '... its id is asked for');
	if ($name =~ /transit/) {
		($status, $seen, $out, $err) = on_terminal([ [ $type, "$word\n" ] ], qw(key destroy --kek), $uri->('spare'), @conf);
		like($err, qr/the transit key "transit\/spare" is protected from deletion\nHINT:  .*deletion_allowed/, "$name: the server's own protection");
		$bao->cli(qw(write transit/keys/spare/config deletion_allowed=true));
		like(ctl(qw(key list --kek), $uri->('spare'), @conf), qr{^transit/spare +1 +may be deleted$}m, '... is taken away');
	}
	($status, $seen, $out, $err) = on_terminal([ [ $type, "$word\n" ] ], qw(key destroy --kek), $uri->('spare'), @conf);
	is($status, 0, "$name: destroyed") or diag $err;
	if ($name eq 'vault-kv: 2') {
		# this version of it: what is known of the secret stays
		like(ctl(qw(key list --kek), $uri->('spare'), @conf), qr{^secret/site/spare +1 +destroyed$}m, '... its version is');
		refused(1, qr/was deleted/, '... and cannot be had', qw(key destroy --kek), $uri->('spare'), @conf);
	}
	else {
		$show->('gone', 'main');
		refused(1, qr/no (transit )?key|no secret/, '... and is not there', qw(key destroy --kek), $uri->('spare'), @conf) if !$envelope && $name ne 'file:';
	}
	like(ctl(qw(key verify blue --kek), $uri->('main'), @conf), qr/opens it/, "$name: the other opens what it did");
	is(scalar(grep { $_->{action} eq 'key destroy' && $_->{state} eq 'done' && !$_->{error} } map { decode_json($_) } split(/\n/, slurp_file("$tmp/ks$n/audit.log"))), 2, '... and the audit log tells of both that were done');
}

# files: what is no key is not shown, what others may read is said
put("$tmp/files/notes", "nothing\n");
put("$tmp/files/open", ('ab' x 32) . "\n", 0644);
mkdir "$tmp/files/folder";
my $conf = "$tmp/c1.ini";
my $rows = ctl(qw(key list --kek), "file:$tmp/files/main", '--config', $conf);
like($rows, qr{^\Q$tmp\E/files/open +refused: for its owner or mode$}m, 'a key file that others may read');
unlike($rows, qr/notes|folder|abab/, 'what is no key file, and keys, are not shown');

# a key of the token that could be read out, a revoked one of KMIP
system_or_bail('pkcs11-tool', '--module', $module, '--token-label', 'walcrypt', '--login', '--pin', '471111', '--keygen', '--key-type', 'AES:32', '--label', 'loose', '--extractable');
like(ctl(qw(key list --kek), $providers[3][1]->('x'), '--config', $conf), qr/^loose +refused: it could be read out$/m, 'a key that could be read out');
$kmip->client('revoke', $kmip->client('register', 'gone', 'cd' x 32, 'active'));
like(ctl(qw(key list --kek), $kmip->uri('x'), '--config', $conf), qr/^gone +\d+ +revoked$/m, 'a revoked one');

# those that cannot, and those that may not
refused(6, qr/key provider "$_->[0]" cannot list its keys\nHINT:  external:, file:/, "$_->[0] list", qw(key list --kek), $_->[1], '--config', $conf),
  refused(6, qr/key provider "$_->[0]" cannot destroy a cluster key\nHINT:  Destroy it where it is kept/, "$_->[0] destroy", qw(key destroy --kek), $_->[1], '--config', $conf)
  for [ 'command:', "command:cat $tmp/files/main" ], [ 'passphrase:', "passphrase:$pin" ];
my $token = $bao->put_token($bao->token_for('reader', qq(path "secret/data/site/*" { capabilities = ["read"] }\n)), "$tmp/token");
refused(4, qr/denies the token access/, 'without the right to list', qw(key list --kek), $bao->uri('vault-kv', 'secret/site/main', token_file => $token), '--config', $conf);
refused(1, qr/does not list its keys|has no transit engine/, 'no transit engine', qw(key list --kek), $bao->uri('vault-transit', 'gone/x'), '--config', $conf);
refused(4, qr/could not reach/, 'a server that is down', qw(key list --kek), do { $kmip->stop; $kmip->uri('x') }, '--config', $conf);

done_testing();
