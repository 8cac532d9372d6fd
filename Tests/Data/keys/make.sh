#!/bin/sh
# Makes the certificates that tests use, with a life of a century: sh Tests/Data/keys/make.sh. Their keys are no secret.
#
# One folder for each who shows something: what is in it is what `pccl keys issue` puts into one.
set -eu
cd "$(dirname "$0")"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
exec 2>"$work/log"
trap 'status=$?; [ $status = 0 ] || cat "$work/log" >&1; rm -rf "$work"; exit $status' EXIT

key() { openssl ecparam -name prime256v1 -genkey -noout | openssl pkcs8 -topk8 -nocrypt -out "$1"; }

# authority NAME
authority() {
    mkdir -p "$work/$1"
    : > "$work/$1/index"
    echo 01 > "$work/$1/crlnumber"
    key "$work/$1/key.pem"
    openssl req -x509 -new -key "$work/$1/key.pem" -subj "/CN=$1" -days 36500 -out "$work/$1/ca.pem" \
        -addext basicConstraints=critical,CA:TRUE,pathlen:0 -addext keyUsage=critical,keyCertSign,cRLSign
    cat > "$work/$1/config" <<END
[ca]
default_ca = all
[all]
database = $work/$1/index
new_certs_dir = $work/$1
crlnumber = $work/$1/crlnumber
rand_serial = yes
default_md = sha256
policy = any
unique_subject = no
[any]
commonName = supplied
END
}

# certificate AUTHORITY NAME ROLES [START END]
certificate() {
    rm -rf "$2"
    mkdir "$2"
    key "$2/key.pem"
    openssl req -new -key "$2/key.pem" -subj "/CN=$2" -out "$work/request"
    {
        echo "basicConstraints = critical, CA:FALSE"
        echo "keyUsage = critical, digitalSignature"
        echo "extendedKeyUsage = serverAuth, clientAuth"
        [ -z "$3" ] || echo "subjectAltName = $3"
    } > "$work/extensions"
    openssl ca -batch -notext -config "$work/$1/config" -cert "$work/$1/ca.pem" -keyfile "$work/$1/key.pem" \
        -startdate "${4:-20260101000000Z}" -enddate "${5:-21260101000000Z}" -extfile "$work/extensions" \
        -in "$work/request" -out "$2/certificate.pem"
    chmod 600 "$2/key.pem"
}

authority ours
authority theirs
certificate ours master URI:pccl:master
certificate ours peer URI:pccl:peer
certificate ours both URI:pccl:master,URI:pccl:peer
certificate ours unnamed ""
certificate ours expired URI:pccl:peer 20250101000000Z 20250201000000Z
certificate ours revoked URI:pccl:peer
certificate theirs foreign URI:pccl:peer
openssl ca -config "$work/ours/config" -cert "$work/ours/ca.pem" -keyfile "$work/ours/key.pem" -revoke revoked/certificate.pem
openssl ca -config "$work/ours/config" -cert "$work/ours/ca.pem" -keyfile "$work/ours/key.pem" -gencrl -crldays 36500 \
    -out "$work/ours/revoked.pem"
for folder in master peer both unnamed expired revoked; do cp "$work/ours/ca.pem" "$work/ours/revoked.pem" $folder/; done
# What it would be shown by us is good: only what it shows is of another authority.
cp "$work/ours/ca.pem" "$work/ours/revoked.pem" foreign/
