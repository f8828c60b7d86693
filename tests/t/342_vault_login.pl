# Logging in to a key server: AppRole, JWT, Kubernetes and TLS certificate, each at the real method of OpenBao; what each refuses; the
# login's token is given back. Namespaces and client certificates.
use strict;
use warnings;
use IO::Socket::INET;
use JSON::PP;
use MIME::Base64 qw(encode_base64);
use PostgreSQL::Test::Utils;
use Test::More;
use Walcrypt;
use Walcrypt::Certificates;
use Walcrypt::Vault;

my $tmp = $PostgreSQL::Test::Utils::tmp_check . '/login';
mkdir $tmp, 0700;
my $certs = Walcrypt::Certificates->new("$tmp/certs");
my $tls   = Walcrypt::Vault->new(name => 'login', tls => 1);
my $n     = 0;
my $reviewer;
END { kill('KILL', $reviewer) if $reviewer; }
$tls->enable('transit', 'secrets', 'transit');
$tls->cli(qw(write -f transit/keys/walcrypt));
$tls->policy('walcrypt', join('', map { qq(path "transit/$_->[0]/walcrypt" { capabilities = ["$_->[1]"] }\n) } [ encrypt => 'update' ], [ decrypt => 'update' ], [ keys => 'read' ]));

sub put { my ($name, $text) = @_; open(my $f, '>', "$tmp/$name") or die; print $f $text; close $f; chmod 0600, "$tmp/$name"; return "$tmp/$name"; }

# key init with these options of a [kek] section: (status, stdout, stderr)
sub init
{
	my (%o) = @_;
	my $file = "$tmp/c" . ++$n . '.ini';
	$o{uri} //= $tls->bare_uri('vault-transit', 'transit/walcrypt');
	$o{ca_file} //= $tls->ca_file;
	put("c$n.ini", "[walcrypt]\nauth_type = trust\nkeystore = $tmp/ks$n\n[kek site]\n" . join('', map { "$_ = $o{$_}\n" } sort grep { $o{$_} ne '' } keys %o)
		. "[node red]\nconninfo = host=$tmp port=1\nkeyset = none\n[node blue]\nkeyset = blue\nkek = site\n");
	return ctl_output(qw(key init blue --system-identifier 7000000000000000001 --config), $file);
}

my @secrets;

sub works
{
	my ($name, %o) = @_;
	my ($rc, $out, $err) = init(%o);
	is($rc, 0, $name) or diag $err;
	is((ctl_output(qw(key verify blue --config), "$tmp/c$n.ini"))[0], 0, "$name: opens it");
	return;
}

sub refused
{
	my ($status, $words, $name, %o) = @_;
	my ($rc, $out, $err) = init(%o);
	is($rc, $status, "$name: exit status");
	like($err, $words, "$name: message");
	unlike($err, qr/\Q$_\E/, "$name: no secret in it") for @secrets;
	return;
}

sub tokens { return scalar @{ decode_json($tls->cli(qw(list -format=json auth/token/accessors))) }; }

# AppRole
$tls->enable('approle', 'auth', 'approle');
$tls->cli(qw(write auth/approle/role/proxy token_policies=walcrypt token_ttl=1h));
my $role   = decode_json($tls->cli(qw(read -format=json auth/approle/role/proxy/role-id)))->{data}{role_id};
my $secret = decode_json($tls->cli(qw(write -f -format=json auth/approle/role/proxy/secret-id)))->{data}{secret_id};
push @secrets, $secret;
my %approle = (login => 'approle', login_role => $role, login_file => put('secret_id', "$secret\n"));
my $before = tokens();
works('approle', %approle);
wait_for('the tokens to go', sub { tokens() == $before });
is(tokens(), $before, 'the tokens of all logins were given back');
like(ctl(qw(key show blue --config), "$tmp/c$n.ini"), qr/^provider +vault-transit:/m, 'key show');
works('approle in the URI', uri => $tls->bare_uri('vault-transit', "transit/walcrypt?login=approle&login_role=$role&login_file=$tmp/secret_id"));
refused(4, qr/^ERROR:  "localhost:\d+" refuses the login by approle at "approle"\nDETAIL:  It said: .*\nHINT:  Role id or secret id are wrong/m, 'a wrong secret id', %approle, login_file => put('wrong', "00000000-0000-0000-0000-000000000000\n"));
refused(4, qr/refuses the login by approle/, 'no secret id', %approle, login_file => '');
refused(4, qr/refuses the login by approle/, 'a wrong role id', %approle, login_role => 'nobody');
refused(4, qr/could not open login file/, 'no file', %approle, login_file => "$tmp/none");
refused(1, qr/does not begin with a line that is a token/, 'an empty file', %approle, login_file => put('empty', "\n"));
chmod 0644, "$tmp/secret_id";
refused(6, qr/login file ".*" may be read or written by everybody/, 'a file open to all', %approle);
chmod 0600, "$tmp/secret_id";
refused(4, qr/refuses the login by approle at "elsewhere"/, 'another mount', %approle, login_mount => 'elsewhere');
$tls->enable('teams/dba', 'auth', 'approle');
$tls->cli(qw(write auth/teams/dba/role/proxy token_policies=walcrypt secret_id_num_uses=1 token_ttl=1h));
my $other = decode_json($tls->cli(qw(read -format=json auth/teams/dba/role/proxy/role-id)))->{data}{role_id};
put('once', decode_json($tls->cli(qw(write -f -format=json auth/teams/dba/role/proxy/secret-id)))->{data}{secret_id} . "\n");
is((init(%approle, login_role => $other, login_mount => 'teams/dba', login_file => "$tmp/once"))[0], 4, 'a secret id for one use is used up by wrapping');
$tls->cli(qw(write auth/teams/dba/role/proxy secret_id_num_uses=0));
put('many', decode_json($tls->cli(qw(write -f -format=json auth/teams/dba/role/proxy/secret-id)))->{data}{secret_id} . "\n");
works('a mount of another name', %approle, login_role => $other, login_mount => 'teams/dba', login_file => "$tmp/many");
$tls->cli(qw(write auth/approle/role/bare token_policies=walcrypt bind_secret_id=false secret_id_bound_cidrs=127.0.0.1/32 token_ttl=1h));
works('a role without secret ids', %approle, login_role => decode_json($tls->cli(qw(read -format=json auth/approle/role/bare/role-id)))->{data}{role_id}, login_file => '');
$tls->cli(qw(write auth/approle/role/idle token_policies=default token_ttl=1h));
refused(4, qr/denies the token access to "transit\/walcrypt".*\nHINT:  The policies that the login gives lack the path/s, 'a login without rights', %approle,
	login_role => decode_json($tls->cli(qw(read -format=json auth/approle/role/idle/role-id)))->{data}{role_id},
	login_file => put('idle', decode_json($tls->cli(qw(write -f -format=json auth/approle/role/idle/secret-id)))->{data}{secret_id} . "\n"));

# JWT, signed here, checked by the server with the public key
$certs->key($_, 'rsa') for qw(issuer stranger);
Walcrypt::Certificates::openssl('pkey', '-in', $certs->file('issuer.key'), '-pubout', '-out', $certs->file('issuer.pub'));

sub base64url { return encode_base64($_[0], '') =~ tr{+/}{-_}r =~ s/=+$//r; }

sub jwt
{
	my ($key, %claims) = @_;
	my $text = base64url('{"alg":"RS256","typ":"JWT"}') . '.' . base64url(encode_json({ iss => 'tests', aud => 'walcrypt', sub => 'proxy', iat => time(), exp => time() + 600, %claims }));
	put('to_sign', $text);
	my $signature = Walcrypt::Certificates::openssl('dgst', '-sha256', '-sign', $certs->file("$key.key"), "$tmp/to_sign");
	return "$text." . base64url($signature) . "\n";
}

$tls->enable('jwt', 'auth', 'jwt');
$tls->cli(qw(write auth/jwt/config), 'jwt_validation_pubkeys=@' . $certs->file('issuer.pub'), 'bound_issuer=tests');
$tls->cli(qw(write auth/jwt/role/proxy role_type=jwt bound_audiences=walcrypt user_claim=sub token_policies=walcrypt token_ttl=1h));
my %jwt = (login => 'jwt', login_role => 'proxy', login_file => put('jwt', jwt('issuer')));
push @secrets, substr(slurp_from("$tmp/jwt"), -60, 40);
$before = tokens();
works('jwt', %jwt);
wait_for('its tokens to go', sub { tokens() == $before });
is(tokens(), $before, 'its tokens were given back');
refused(4, qr/refuses the login by jwt at "jwt"\nDETAIL:  It said: .*\nHINT:  The role must be there, and the token in login_file be valid/, 'a JWT of another signer', %jwt, login_file => put('jwt2', jwt('stranger')));
refused(4, qr/refuses the login by jwt.*expir/s, 'a JWT that has expired', %jwt, login_file => put('jwt3', jwt('issuer', iat => time() - 9000, exp => time() - 8000)));
refused(4, qr/refuses the login by jwt/, 'a JWT for somebody else', %jwt, login_file => put('jwt4', jwt('issuer', aud => 'others')));
refused(4, qr/refuses the login by jwt/, 'no JWT at all', %jwt, login_file => put('jwt5', "hello\n"));
refused(4, qr/refuses the login by jwt/, 'another role', %jwt, login_role => 'nobody');

# Kubernetes: the server asks a Kubernetes API whether the token is good. There is none here, so the test answers that one question itself;
# everything else is OpenBao's own method.
my $api = IO::Socket::INET->new(Listen => 20, LocalAddr => '127.0.0.1', ReuseAddr => 1) or die;
$reviewer = fork() // die;
if ($reviewer == 0) {
	open(STDOUT, '>', '/dev/null');
	open(STDERR, '>&', \*STDOUT);
	while (my $c = $api->accept) {
		my ($length, $body) = (0, '');
		while (defined(my $l = <$c>)) { $length = $1 if $l =~ /^content-length: (\d+)/i; last if $l =~ /^\r?\n$/; }
		read($c, $body, $length);
		my $review = decode_json($body);
		my $good = $review->{spec}{token} eq slurp_from("$tmp/pod") =~ s/\n//r;
		$review->{status} = $good ? { authenticated => JSON::PP::true, audiences => [ 'walcrypt' ], user => { username => 'system:serviceaccount:db:walcrypt', uid => 'u', groups => [ 'system:serviceaccounts' ] } }
		  : { authenticated => JSON::PP::false, error => 'invalid bearer token' };
		my $answer = encode_json($review);
		print $c "HTTP/1.1 201 Created\r\nContent-Type: application/json\r\nContent-Length: " . length($answer) . "\r\nConnection: close\r\n\r\n$answer";
		close $c;
	}
	POSIX::_exit(0);
}
my %pod = (aud => [ 'walcrypt' ], iss => 'kubernetes/serviceaccount', 'kubernetes.io/serviceaccount/namespace' => 'db', 'kubernetes.io/serviceaccount/service-account.name' => 'walcrypt',
	'kubernetes.io/serviceaccount/service-account.uid' => 'u', 'kubernetes.io/serviceaccount/secret.name' => 's', sub => 'system:serviceaccount:db:walcrypt');
$tls->enable('kubernetes', 'auth', 'kubernetes');
$tls->cli(qw(write auth/kubernetes/config disable_local_ca_jwt=true), 'kubernetes_ca_cert=@' . $tls->ca_file, 'kubernetes_host=http://127.0.0.1:' . $api->sockport, 'pem_keys=@' . $certs->file('issuer.pub'));
$tls->cli(qw(write auth/kubernetes/role/walcrypt bound_service_account_names=walcrypt bound_service_account_namespaces=db token_policies=walcrypt token_ttl=1h));
my %kubernetes = (login => 'kubernetes', login_role => 'walcrypt', login_file => put('pod', jwt('issuer', %pod)));
chmod 0644, "$tmp/pod";
works('kubernetes, the file readable as it is in a pod', %kubernetes);
refused(4, qr/refuses the login by kubernetes at "kubernetes"/, 'a token that the API does not know', %kubernetes, login_file => put('pod2', jwt('issuer', %pod, jti => 2)));
refused(4, qr/refuses the login by kubernetes/, 'another role', %kubernetes, login_role => 'nobody');
refused(4, qr{could not open login file "/var/run/secrets/kubernetes.io/serviceaccount/token"}, 'the usual place', %kubernetes, login_file => '');
kill('KILL', $reviewer);
waitpid($reviewer, 0);
$reviewer = undef;

# TLS certificate
$certs->authority('ca');
$certs->make('client', ca => 'ca', cn => 'walcrypt.test');
$certs->authority('other');
$certs->make('foreign', ca => 'other', cn => 'walcrypt.test');
$tls->enable('cert', 'auth', 'cert');
$tls->cli(qw(write auth/cert/certs/proxy token_policies=walcrypt token_ttl=1h), 'certificate=@' . $certs->file('ca.crt'));
my %cert = (login => 'cert', cert_file => $certs->file('client.crt'), key_file => $certs->file('client.key'));
works('cert', %cert);
works('cert, by its role', %cert, login_role => 'proxy');
refused(4, qr/refuses the login by cert at "cert".*\nHINT:  The certificate in cert_file must be one/s, 'another role', %cert, login_role => 'nobody');
refused(4, qr/refuses the login by cert/, 'a certificate of another authority', %cert, cert_file => $certs->file('foreign.crt'), key_file => $certs->file('foreign.key'));
refused(2, qr/could not use the client certificate/, 'a key of another certificate', %cert, key_file => $certs->file('foreign.key'));
refused(2, qr/could not use the client certificate/, 'no certificate', %cert, cert_file => "$tmp/none");

# a server that takes nobody without a certificate
$tls->stop;
$tls->require_client_certificates($certs->file('ca.crt'));
$tls->start;
$tls->unseal(cert => $certs->file('client.crt'), key => $certs->file('client.key'));
works('a server that wants a client certificate', token_file => $tls->token_file, %cert, login => '');
refused(4, qr/could not reach "localhost:\d+"\nDETAIL:  .*(certificate|alert|SSL|reset by peer|not connected)/, 'without one', token_file => $tls->token_file);

# namespaces
$tls->cli(qw(namespace create team));
$tls->cli(qw(secrets enable -namespace=team -path=transit transit));
$tls->cli(qw(write -f -namespace=team transit/keys/inside));
my $inside = $tls->bare_uri('vault-transit', 'transit/inside');
works('a namespace', uri => $inside, namespace => 'team', token_file => $tls->token_file, %cert, login => '');
works('a namespace in the URI', uri => "$inside?namespace=team", token_file => $tls->token_file, %cert, login => '');
refused(1, qr/has no transit key "transit\/inside"/, 'outside of it', uri => $inside, token_file => $tls->token_file, %cert, login => '');
refused(1, qr/has no transit engine there: "transit\/inside"\nDETAIL:  It said: namespace not found/, 'another namespace', uri => $inside, namespace => 'crew', token_file => $tls->token_file, %cert, login => '');

# options that do not fit each other are told before anybody is asked
for my $t (
	[ qr/login "magic" is not known\nHINT:  Known are token, approle, jwt, kubernetes and cert/, login => 'magic' ],
	[ qr/logs in by approle, but has no login_role\nHINT:  It is the role id/, login => 'approle' ],
	[ qr/logs in by jwt, but has no login_file/, login => 'jwt', login_role => 'x' ],
	[ qr/logs in by kubernetes, but has no login_role/, login => 'kubernetes' ],
	[ qr/logs in by cert, but has no cert_file/, login => 'cert' ],
	[ qr/has a login_file, but logs in by cert/, login => 'cert', cert_file => 'x', login_file => 'x' ],
	[ qr/has a token_file, but logs in by approle/, %approle, token_file => 'x' ],
	[ qr/has options of a login, but logs in by a token/, login_role => 'x' ])
{
	my ($words, %o) = @$t;
	refused(2, $words, "contradiction: $words", %o);
}

done_testing();
