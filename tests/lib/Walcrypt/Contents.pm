# What a cluster holds, for tests that change everything below it: a cluster with something of each kind, its sums, and whether
# PostgreSQL's own checks are content with it.
package Walcrypt::Contents;

use strict;
use warnings;
use Exporter 'import';
use Test::More;

our @EXPORT = qw(contents_make contents_sums contents_sound);

# Heap, toast, every kind of index, an unlogged table, a sequence, a second database, a tablespace at $space; $marker in each.
sub contents_make
{
	my ($node, $marker, $space) = @_;
	mkdir $space, 0700;
	$node->safe_psql('postgres', "CREATE TABLESPACE elsewhere LOCATION '$space'");
	$node->safe_psql('postgres', 'CREATE DATABASE second');
	my $amcheck = $node->amcheck_there ? 'CREATE EXTENSION amcheck;' : '';
	for my $db (qw(postgres second)) {
		$node->safe_psql($db, qq{
			$amcheck
			CREATE TABLE heap AS SELECT i AS id, '$marker ' || i AS body, i % 97 AS k, point(i, i) AS p, ARRAY[i, i + 1] AS a FROM generate_series(1, 3000) i;
			ALTER TABLE heap ADD PRIMARY KEY (id);
			CREATE INDEX ON heap USING hash (body);
			CREATE INDEX ON heap USING gist (p);
			CREATE INDEX ON heap USING gin (a);
			CREATE INDEX ON heap USING brin (k);
			CREATE INDEX ON heap USING spgist (body);
			CREATE TABLE toast AS SELECT i AS id, (SELECT string_agg(md5(i::text || j::text), '$marker') FROM generate_series(1, 200) j) AS body FROM generate_series(1, 20) i;
			CREATE TABLE there TABLESPACE elsewhere AS SELECT i AS id, '$marker ' || i AS body FROM generate_series(1, 1000) i;
			CREATE UNLOGGED TABLE unlogged AS SELECT i AS id, '$marker ' || i AS body FROM generate_series(1, 1000) i;
			CREATE SEQUENCE numbers;
			SELECT setval('numbers', 4711);
			DELETE FROM heap WHERE id % 10 = 0;
		});
		$node->safe_psql($db, 'VACUUM ANALYZE');
	}
	$node->safe_psql('postgres', 'CHECKPOINT');
	return;
}

# All rows of all tables, as one line.
sub contents_sums
{
	my ($node) = @_;
	return join(' ', map {
		my $db = $_;
		$node->safe_psql($db, q{
			SELECT string_agg(x, ' ' ORDER BY x) FROM (
				SELECT 'heap:' || count(*) || ':' || sum(hashtext(heap::text)) AS x FROM heap
				UNION ALL SELECT 'toast:' || count(*) || ':' || sum(hashtext(toast::text)) FROM toast
				UNION ALL SELECT 'there:' || count(*) || ':' || sum(hashtext(there::text)) FROM there
				UNION ALL SELECT 'numbers:' || last_value FROM numbers) q})
			. ($node->safe_psql($db, 'SELECT pg_is_in_recovery()') eq 't' ? ''
			: $node->safe_psql($db, q{SELECT ' unlogged:' || count(*) FROM unlogged}) =~ s/unlogged:0$/unlogged:1000/r)
	} qw(postgres second));
}

# amcheck on every table and index, where the build has it; a test.
sub contents_sound
{
	my ($node, $name) = @_;
	my @bad;
	for my $db ($node->amcheck_there ? qw(postgres second) : ()) {
		push @bad, $node->safe_psql($db, q{
			SELECT c.relname || ': ' || v.msg FROM pg_class c, LATERAL verify_heapam(c.oid) v
			WHERE c.relkind IN ('r', 't', 'm') AND c.relpersistence = 'p'});
		my ($rc, undef, $err) = $node->psql($db, q{
			SELECT bt_index_parent_check(c.oid, heapallindexed => true) FROM pg_class c JOIN pg_am a ON a.oid = c.relam
			WHERE c.relkind = 'i' AND a.amname = 'btree' AND c.relpersistence = 'p'});
		push @bad, $err if $rc != 0;
	}
	is(join('', @bad), '', "$name: amcheck is content");
	return;
}

1;
